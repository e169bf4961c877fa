"""The page on a phone, a tablet and a desktop, in light and dark, by touch."""

import pytest

# text whose colour is less than 4.5 to 1 from what it stands on (WCAG AA), as far as that is one colour
CONTRAST = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const [r, g, b, a = 1] = parse(getComputedStyle(element).backgroundColor);
      if (a === 1) return [r, g, b];
      if (a > 0) return null;
    }
    return null;
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility({ visibilityProperty: true }) || element.closest(":disabled")) continue;
    const under = ground(element);
    if (!under) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(under)].sort((p, q) => q - p);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push(`${element.className || element.tagName}: ${ratio.toFixed(2)}`);
  }
  return poor;
}"""


def test_two_fingers_zoom_and_one_paints(studio, person, scenes) -> None:
    who = person(390, 844, has_touch=True, is_mobile=True, device_scale_factor=2).open(studio().address)
    who.show("key0.png")
    touch = who.page.context.new_cdp_session(who.page)

    def send(kind: str, *points: tuple[float, float]) -> None:
        found = [{"x": x, "y": y, "id": n} for n, (x, y) in enumerate(points)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": found})

    (x, y), before = who.at(160, 120), who.at(10, 10)
    send("touchStart", (x - 20, y))
    send("touchStart", (x - 20, y), (x + 20, y))
    for step in range(1, 6):
        send("touchMove", (x - 20 - 10 * step, y), (x + 20 + 10 * step, y))
    send("touchEnd")
    assert who.page.locator("#canvas").get_attribute("data-place").split()[2] > "1"
    after = who.at(10, 10)
    assert after[0] < before[0]
    who.until("editor.marks === null")  # two fingers have painted nothing
    who.page.tap("#tool-brush")
    send("touchStart", (x, y))
    for step in range(1, 6):
        send("touchMove", (x + 8 * step, y + 4 * step))
    send("touchEnd")
    who.what("key0.png", "shot")
    assert who.labels("marks").any()


@pytest.mark.parametrize(("width", "height"), [(390, 844), (820, 1180), (1440, 900)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_size_has_all_it_needs_in_sight(width: int, height: int, scheme: str, quiet, person) -> None:
    who = person(width, height, color_scheme=scheme, has_touch=width < 1000).open(quiet.address)
    who.page.wait_for_selector(".thumb")
    assert who.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    for part in ("#canvas", "#tools", "#export-open", "#undo", "#add", "#camera-open", "#help-open", ".thumb >> nth=0"):
        box = who.page.locator(part).bounding_box()
        assert box is not None, part
        assert box["x"] >= 0, part
        assert box["y"] >= 0, part
        assert box["x"] + box["width"] <= width + 1, part
        assert box["y"] + box["height"] <= height + 1, part
    if width < 1000:
        who.page.click("#side-open")
        who.page.wait_for_selector("#class-add")
        who.page.click("#side-close")
    assert who.page.evaluate(CONTRAST) == []
    # every button has a name that a screen reader can say
    bare = who.page.evaluate(
        "() => [...document.querySelectorAll('button')]"
        ".filter((b) => !(b.getAttribute('aria-label') || b.textContent.trim())).length"
    )
    assert bare == 0
