"""The page, used as a person uses it: with mouse, keys and files, in Chromium."""

import io
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ntre_deploy.runtime.imagefile import read_image
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.segment.grabcut import cut, read_box


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    ys, xs = np.nonzero(mask)
    return int(xs.min()) - 2, int(ys.min()) - 2, int(xs.max()) + 3, int(ys.max()) + 3


@pytest.fixture
def marked(studio, person, scenes) -> tuple[Any, Any]:
    """A box was drawn around the object in the first photo, and the others show what is found."""
    server = studio()
    who = person().open(server.address)
    who.show("key0.png")
    x1, y1, x2, y2 = _box(scenes.masks["key0.png"])
    who.drag((x1, y1), (x2, y2))
    who.what("key0.png", "shot")
    return server, who


def test_a_box_in_one_photo_shows_the_object_in_all_others(marked, scenes, exported: Path) -> None:
    server, who = marked
    for name in scenes.names[1:]:
        who.what(name, "found", "nothing found")
    image = read_image(scenes.photos / "key0.png")
    drawn = who.labels("marks")
    # the mouse stands between pixels: the box is the drawn one to a pixel
    mask = cut(image, read_box(",".join(map(str, _box(scenes.masks["key0.png"])))))
    assert (drawn == mask).mean() > 0.98
    segmenter = Segmenter.load(exported, threads=1)
    memory = segmenter.encode_support([(image, drawn)])
    for name in scenes.names[1:3]:
        who.show(name)
        who.waits_for("Found by the network")
        wanted = segmenter.segment(read_image(scenes.photos / name), memory)
        assert wanted.any()
        np.testing.assert_array_equal(who.labels("prediction"), wanted)
    # and the thumbnail shows it in the colour of the class
    colour = [int(server.state()["classes"][0]["colour"][i : i + 2], 16) for i in (1, 3, 5)]
    pixels = who.page.evaluate(
        "() => { const c = document.querySelector('.thumb[aria-label^=\"key3.png\"] canvas');"
        " return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; }"
    )
    near = np.abs(np.array(pixels).reshape(-1, 4)[:, :3] - colour).max(axis=1) < 40
    assert near.any()


def test_a_prediction_that_is_corrected_becomes_the_next_shot(marked, scenes) -> None:
    server, who = marked
    who.show("key1.png")
    who.waits_for("Found by the network")
    before = who.labels("prediction")
    who.page.keyboard.press("r")
    who.page.keyboard.press("x")
    who.drag((20, 20), (200, 120))  # a stroke that erases
    who.what("key1.png", "shot")
    after = who.labels("marks")
    assert ((after != before) & (after == 0)).any()
    assert not ((after != before) & (after != 0)).any()
    who.page.wait_for_selector(".class .score")
    assert who.page.locator(".class .class-figures").first.inner_text().startswith("2 shots")
    who.show("key2.png")
    who.waits_for("Found by the network")
    who.page.keyboard.press("Enter")
    who.what("key2.png", "shot")
    who.page.wait_for_selector(".class .gain")
    assert "by the newest" in who.page.locator(".class .gain").inner_text()
    who.settled()
    assert [bool(p["mark"]) for p in server.state()["photos"]] == [True, True, True, False]


def test_undo_and_redo_go_through_all_that_was_drawn(marked, scenes) -> None:
    server, who = marked
    states = [who.labels("marks")]
    who.page.keyboard.press("r")
    who.drag((30, 30), (100, 30))
    states.append(who.labels("marks"))
    who.page.keyboard.press("l")
    for point in ((200, 20), (260, 20), (260, 80)):
        who.page.mouse.click(*who.at(*point))
        time.sleep(0.05)
    who.page.keyboard.press("Enter")
    states.append(who.labels("marks"))
    assert states[2][30, 250] == 1
    assert states[2][70, 210] == 0
    for state in states[1::-1]:
        who.page.keyboard.press("Control+z")
        np.testing.assert_array_equal(who.labels("marks"), state)
    who.page.click("#undo")  # the box too: nothing is marked any more
    who.page.wait_for_selector('.thumb[aria-label^="key0.png"]:not([data-what="shot"])')
    assert who.page.locator("#undo").is_disabled()
    for state in states:
        who.page.keyboard.press("Control+Shift+z")
        np.testing.assert_array_equal(who.labels("marks"), state)
    assert who.page.locator("#redo").is_disabled()
    who.settled()
    photo = server.state()["photos"][0]["id"]
    np.testing.assert_array_equal(server.ask("GET", f"/api/photos/{photo}/marks").labels, states[-1])


def test_clicks_on_and_beside_the_object_make_a_mask(studio, person, scenes) -> None:
    who = person().open(studio().address)
    who.show("key0.png")
    who.page.keyboard.press("p")
    ys, xs = np.nonzero(scenes.masks["key0.png"])
    middle = len(xs) // 2
    who.page.mouse.click(*who.at(int(xs[middle]), int(ys[middle])))
    who.what("key0.png", "shot")
    first = who.labels("marks")
    who.page.keyboard.down("Alt")
    who.page.mouse.click(*who.at(6, 6))
    who.page.keyboard.up("Alt")
    who.page.wait_for_selector("#busy", state="hidden")
    assert first.any()
    assert who.labels("marks")[6, 6] == 0


def test_several_classes_with_names_colours_and_ignored_pixels(marked, scenes) -> None:
    server, who = marked
    who.page.click("#class-add")
    who.page.keyboard.type("tin can")
    who.page.keyboard.press("Enter")
    who.page.keyboard.press("r")
    who.drag((20, 20), (80, 20))
    who.page.locator('.class[data-number="255"]').click()
    who.drag((20, 60), (80, 60))
    labels = who.labels("marks")
    assert labels[20, 50] == 2
    assert labels[60, 50] == 255
    name = who.page.locator('.class[data-number="1"] input.class-name')
    name.fill("key")
    name.press("Enter")
    who.settled()
    assert [c["name"] for c in server.state()["classes"]] == ["key", "tin can"]
    assert server.state()["photos"][0]["mark"]["numbers"] == [1, 2]
    # a name that is taken is refused in words
    name.fill("Tin Can")
    name.press("Enter")
    who.waits_for("There is a class 'Tin Can' already")
    assert name.input_value() == "key"
    who.page.on("dialog", lambda dialog: dialog.accept())
    who.page.get_by_role("button", name="Delete tin can").click()
    who.until("!editor.marks.includes(2)")
    who.settled()
    assert server.state()["photos"][0]["mark"]["numbers"] == [1]
    assert not (who.labels("marks") == 2).any()


def test_the_session_survives_a_reload(marked, scenes) -> None:
    _, who = marked
    who.page.keyboard.press("r")
    who.drag((30, 30), (90, 40))
    drawn = who.labels("marks")
    who.page.reload()
    who.page.wait_for_selector("#engine.ready")
    who.show("key0.png")
    np.testing.assert_array_equal(who.labels("marks"), drawn)
    who.what("key1.png", "found", "nothing found")
    assert "token" not in who.page.url


def test_a_server_that_went_away_loses_nothing(studio, person, scenes, session_folder: Path) -> None:
    server = studio()
    who = person().open(server.address)
    who.show("key0.png")
    who.page.keyboard.press("r")
    who.drag((30, 30), (90, 40))
    who.settled()
    server.kill()
    who.drag((30, 80), (90, 90))
    who.waits_for("The server does not answer")
    drawn = who.labels("marks")
    assert drawn[85, 60] == 1
    who.page.keyboard.press("b")
    who.drag((100, 100), (160, 160))
    who.waits_for("Box and clicks need the server")
    again = studio(port=server.port)
    assert again.address == server.address
    who.waits_for("The server is back")
    who.what("key1.png", "found", "nothing found")
    who.settled()
    photo = again.state()["photos"][0]
    np.testing.assert_array_equal(again.ask("GET", f"/api/photos/{photo['id']}/marks").labels, drawn)
    # the same after a reload while something was still to be sent
    again.kill()
    who.page.keyboard.press("r")
    who.drag((30, 120), (90, 130))
    who.waits_for("The server does not answer")
    last = who.labels("marks")
    third = studio(port=server.port)
    who.page.on("dialog", lambda dialog: dialog.accept())
    who.page.goto("about:blank")
    who.open(third.address)
    who.show("key0.png")
    who.settled()
    np.testing.assert_array_equal(third.ask("GET", f"/api/photos/{photo['id']}/marks").labels, last)


def test_photos_come_by_the_picker_and_bad_files_are_named(studio, person, scenes, tmp_path: Path) -> None:
    server = studio(photos=None)
    who = person().open(server.address)
    who.waits_for("Drop photos here")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "broken.jpg").write_text("hello")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "large.png")
    files = [scenes.photos / "key0.png", tmp_path / "notes.txt", tmp_path / "broken.jpg", tmp_path / "large.png"]
    who.page.set_input_files("#files", [str(f) for f in files])
    who.waits_for("notes.txt is no photo")
    who.waits_for("broken.jpg is not an image that can be read")
    who.waits_for("large.png has 10000 x 10000 pixels (100 megapixels); the studio takes up to 60")
    assert who.page.locator(".thumb").count() == 1
    assert who.page.locator("#empty").is_hidden()
    # dropped on the page
    content = (scenes.photos / "key1.png").read_bytes().hex()
    who.page.evaluate(
        """(hex) => {
            const bytes = Uint8Array.from(hex.match(/../g), (h) => parseInt(h, 16)), transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
            const drop = { dataTransfer: transfer, bubbles: true, cancelable: true };
            document.body.dispatchEvent(new DragEvent("drop", drop));
            const pasted = new DataTransfer();
            pasted.items.add(new File([bytes.slice()], "image.png", { type: "image/png" }));
            document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData: pasted, bubbles: true }));
        }""",
        content,
    )
    who.page.wait_for_selector('.thumb[aria-label^="dropped.png"], .thumb[aria-label^="pasted"]')
    time.sleep(0.5)
    assert who.page.locator(".thumb").count() == 2  # the same picture is the same photo


def test_a_bundle_that_does_not_load_is_told_and_marking_works_on(
    studio, person, exported: Path, tmp_path: Path
) -> None:
    import shutil

    broken = Path(shutil.copytree(exported, tmp_path / "broken.ntre"))
    graph = next(broken.glob("query*.onnx"))
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    server = studio(bundle=broken)
    who = person()
    who.page.goto(server.address)
    who.waits_for("The bundle cannot be used")
    who.waits_for(graph.name)
    who.show("key0.png")
    who.page.keyboard.press("r")
    who.drag((30, 30), (90, 40))
    who.what("key0.png", "shot")
    shutil.copy(exported / graph.name, graph)
    who.page.get_by_role("button", name="Try again").click()
    who.page.wait_for_selector("#engine.ready")
    who.what("key1.png", "found", "nothing found")


def test_the_camera_shows_what_is_found_and_gives_a_shot(marked, scenes) -> None:
    _, who = marked
    who.page.click("#camera-open")
    who.page.wait_for_function(
        r"() => /^[\d.]+ frames\/s, \d+ ms$/.test(document.querySelector('#camera-rate').textContent)"
    )
    size = who.page.evaluate(
        "() => [document.querySelector('#camera-canvas').width, document.querySelector('#camera-canvas').height]"
    )
    assert max(size) == 640
    who.page.click("#camera-keep")
    who.page.wait_for_selector("#camera", state="hidden")
    who.what("camera-", "found", "nothing found", "not marked")
    who.page.wait_for_selector('.thumb[aria-current="true"][aria-label^="camera-"]')
    who.page.keyboard.press("r")
    who.drag((300, 200), (340, 220))
    who.what("camera-", "shot")


def test_an_export_is_downloaded(marked) -> None:
    _, who = marked
    who.page.click("#export-open")
    with who.page.expect_download() as wait:
        who.page.click('[data-kind="session"]')
    assert wait.value.suggested_filename == "ntre_session.zip"
    names = zipfile.ZipFile(io.BytesIO(Path(wait.value.path()).read_bytes())).namelist()
    assert "ntre_session/object/masks/key0.png" in names
    assert "ntre_session/_memories/object.safetensors" in names
    who.page.locator("summary").click()
    who.waits_for("segmenter = Segmenter.load")


def test_nothing_but_this_server_is_asked(marked, scenes) -> None:
    server, who = marked
    who.what("key1.png", "found", "nothing found")
    own = (f"http://127.0.0.1:{server.port}/", "blob:")
    assert [url for url in who.requests if not url.startswith(own)] == []
    told = who.page.evaluate(
        """async () => {
            const out = [];
            document.addEventListener("securitypolicyviolation", (event) => out.push(event.effectiveDirective));
            await fetch("http://127.0.0.1:9/").catch(() => {});
            await fetch("https://example.org/").catch(() => {});
            const script = document.createElement("script");
            script.textContent = "window.broken = true";
            document.body.append(script);
            await new Promise((resolve) => setTimeout(resolve, 100));
            return [out.length, window.broken === undefined];
        }"""
    )
    who.errors.clear()  # the browser tells of each of them
    assert told == [3, True]


def test_without_the_token_the_page_says_what_to_open(studio, person) -> None:
    server = studio()
    who = person()
    who.page.goto(f"http://127.0.0.1:{server.port}/")
    who.waits_for("open the address that `ntre studio` printed")
    who.page.goto("about:blank")
    who.page.goto(f"http://127.0.0.1:{server.port}/#token=wrong")
    who.waits_for("The token is missing or wrong")


def test_the_page_never_blocks_for_long(marked, scenes) -> None:
    """Longest task of the page's own thread while a stroke is drawn and all photos are segmented anew."""
    _, who = marked
    who.page.evaluate(
        "() => { window.longest = 0; new PerformanceObserver((list) => { for (const one of list.getEntries())"
        " window.longest = Math.max(window.longest, one.duration); }).observe({ type: 'longtask' }); }"
    )
    longest = []
    for shift in (0, 10, 20):
        who.page.evaluate("() => { window.longest = 0; }")
        who.page.keyboard.press("r")
        who.drag((30, 30 + shift), (90, 40), (40, 100 - shift))
        who.what("key3.png", "found", "nothing found")
        time.sleep(0.5)
        longest.append(who.page.evaluate("() => window.longest"))
    # what the page does would be as long each time; a pause that other processes make is not
    assert min(longest) < 250, longest
