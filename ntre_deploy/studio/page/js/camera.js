// The camera: each frame segmented as fast as the engine can, and kept as a shot when it is asked for.

import { Offline } from "./http.js";
import { $, make, sheet, toast } from "./parts.js";
import { paint, tables } from "./paint.js";

const SIDE = 640, SMOOTH = 0.85;

export class Camera {
  #stream = null;
  #round = 0;
  #labels = null;

  constructor(store, editor, engine, intake) {
    Object.assign(this, { store, editor, engine, intake });
    this.video = make("video", { muted: true, playsinline: true });
    this.canvas = $("camera-canvas");
    this.frame = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    this.dialog = sheet("camera", () => this.#stop());
    $("camera-keep").addEventListener("click", () => this.#keep());
    $("camera-choice").addEventListener("change", (event) => this.#start(event.target.value));
  }

  open() {
    this.dialog.showModal();
    this.#note(this.#marked ? "" : "Keep a frame, mark the object in it, and come back to see it found.");
    this.#start();
  }

  get #marked() { return [...this.store.photos.values()].some((photo) => photo.mark?.numbers.length); }

  #note(text) { $("camera-note").textContent = text; }

  async #start(device) {
    this.#stop();
    const round = ++this.#round;
    try {
      if (!navigator.mediaDevices) throw new Error("This browser gives no camera to this page.");
      const wanted = device ? { deviceId: { exact: device } } : { facingMode: "environment" };
      const stream = await navigator.mediaDevices.getUserMedia({ video: { ...wanted, width: { ideal: 1280 }, height: { ideal: 960 } }, audio: false });
      if (round !== this.#round || !this.dialog.open) return void stream.getTracks().forEach((track) => track.stop());
      this.#stream = stream;
      this.video.srcObject = stream;
      await this.video.play();
      await this.#choices(stream);
      $("camera-keep").disabled = false;
      this.#loop(round);
    } catch (error) {
      const told = { NotAllowedError: "The camera was refused; allow it in the browser's address bar.", NotFoundError: "There is no camera.", NotReadableError: "The camera is used by another program." };
      this.#note(told[error.name] ?? error.message);
      $("camera-rate").textContent = "";
    }
  }

  async #choices(stream) {
    const cameras = (await navigator.mediaDevices.enumerateDevices()).filter((one) => one.kind === "videoinput");
    const current = stream.getVideoTracks()[0]?.getSettings().deviceId;
    $("camera-choice").replaceChildren(...cameras.map((one, n) => make("option", { value: one.deviceId, selected: one.deviceId === current, text: one.label || `Camera ${n + 1}` })));
    $("camera-choice").parentElement.hidden = cameras.length < 2;
  }

  #stop() {
    this.#round++;
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = this.video.srcObject = null;
    $("camera-keep").disabled = true;
  }

  #grab() {
    const { videoWidth: w, videoHeight: h } = this.video, scale = Math.min(1, SIDE / Math.max(w, h, 1));
    const canvas = this.frame.canvas;
    canvas.width = Math.max(1, Math.round(w * scale));
    canvas.height = Math.max(1, Math.round(h * scale));
    this.frame.drawImage(this.video, 0, 0, canvas.width, canvas.height);
    return this.frame.getImageData(0, 0, canvas.width, canvas.height);
  }

  async #loop(round) {
    let rate = 0, latency = 0, last = performance.now();
    while (round === this.#round) {
      const pixels = this.#grab();
      let found = null;
      if (this.#marked && this.store.state?.engine?.state === "ready") {
        try {
          const began = performance.now();
          // the pixels are handed over; what is drawn below stays in the canvas
          found = await this.engine.frame(pixels, this.memories ?? {});
          const took = performance.now() - began;
          latency = latency ? SMOOTH * latency + (1 - SMOOTH) * took : took;
        } catch (error) {
          if (error instanceof Offline) this.#note("The server does not answer; it goes on when it is back.");
          else this.#note(error.message);
          await new Promise((resolve) => setTimeout(resolve, 500));
        }
      } else await new Promise((resolve) => requestAnimationFrame(resolve));
      if (round !== this.#round) return;
      this.#show(pixels, found);
      const now = performance.now();
      rate = rate ? SMOOTH * rate + (1 - SMOOTH) * (1000 / (now - last)) : 1000 / (now - last);
      last = now;
      $("camera-rate").textContent = found ? `${rate.toFixed(1)} frames/s, ${Math.round(latency)} ms` : `${rate.toFixed(0)} frames/s`;
    }
  }

  /** The very frame that was segmented, so that marks and picture belong together. */
  #show(pixels, found) {
    const { canvas } = this, { width, height } = pixels;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const c = canvas.getContext("2d");
    c.putImageData(pixels, 0, 0);
    this.#labels = found?.labels ?? null;
    if (!found) return;
    const over = new OffscreenCanvas(width, height);
    paint(over.getContext("2d"), found.labels, width, height, tables(this.store.classes));
    c.drawImage(over, 0, 0);
  }

  async #keep() {
    $("camera-keep").disabled = true;
    // as the network saw it, before anything was drawn over it
    const blob = await this.frame.canvas.convertToBlob({ type: "image/png" });
    const stamp = new Date().toISOString().replace(/[-:]/g, "").replace("T", "-").slice(0, 15);
    const [photo] = await this.intake.add([new File([blob], `camera-${stamp}.png`)]);
    this.dialog.close();
    if (!photo) return;
    await this.editor.open(photo.id);
    toast(this.#marked ? "Correct what was found, or press Enter to take it as a shot." : "Mark the object.");
  }
}
