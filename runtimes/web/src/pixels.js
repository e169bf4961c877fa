/** Images as pages hold them, to pixels. */

import { InputError, explained } from "./errors.js";

/** @typedef {import("./resize.js").Pixels} Pixels */

/**
 * @typedef {ImageData | { data: Uint8Array | Uint8ClampedArray, width: number, height: number } | ImageBitmap |
 *   VideoFrame
 *   | OffscreenCanvas | HTMLCanvasElement | HTMLImageElement | HTMLVideoElement | Blob} ImageSource
 */

// the largest side that Python's OpenCV can address
const MAX_SIDE = 32_767;

/**
 * @param {unknown} given see `ImageSource`
 * @param {string} [what] names it in messages
 * @returns {Promise<Pixels>}
 * @throws {InputError} it is none of these, or of a size that cannot be processed
 */
export async function pixelsOf(given, what = "The image") {
  const ready = plainPixels(given, what);
  if (ready) return ready;
  const bitmap = await bitmapOf(given, what);
  try {
    checkSides(bitmap.width, bitmap.height, what);
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    const context = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
    if (!context)
      throw new InputError(`${what} of ${bitmap.width} x ${bitmap.height} pixels is too large for this browser.`);
    context.drawImage(bitmap, 0, 0);
    const { data, width, height } = context.getImageData(0, 0, bitmap.width, bitmap.height);
    return { data, width, height, channels: 4 };
  } catch (error) {
    throw explained(error, (reason) => new InputError(`${what} cannot be read: ${reason}.`));
  } finally {
    if (bitmap !== given) bitmap.close();
  }
}

/**
 * The values of a mask: an array as it is, and of a picture its red, so that black-and-white files may be given.
 * @param {unknown} given a `Uint8Array`, or see `ImageSource`
 * @param {{ width: number, height: number }} image that it belongs to
 * @param {string} what names it in messages
 * @returns {Promise<Uint8Array | Uint8ClampedArray>}
 * @throws {InputError} it is none of these, or of another size than its image
 */
export async function maskOf(given, image, what) {
  if (given instanceof Uint8Array || given instanceof Uint8ClampedArray) {
    if (given.length === image.width * image.height) return given;
    throw new InputError(
      `${what} has ${given.length} pixels and its image ${image.width} x ${image.height}; they must be equal.`,
    );
  }
  const { data, width, height, channels } = await pixelsOf(given, what);
  if (width !== image.width || height !== image.height) {
    throw new InputError(
      `${what} has ${width} x ${height} pixels and its image ${image.width} x ${image.height}; they must be equal.`,
    );
  }
  return Uint8Array.from({ length: width * height }, (_, i) => data[i * channels]);
}

/**
 * Pixels of what holds them already; null for what has to be drawn.
 * @param {any} given
 * @param {string} what
 * @returns {Pixels | null}
 */
export function plainPixels(given, what) {
  if (!(given?.data instanceof Uint8Array || given?.data instanceof Uint8ClampedArray)) return null;
  const { data, width, height } = given;
  checkSides(width, height, what);
  const channels = data.length / (width * height);
  if (channels !== 3 && channels !== 4) {
    throw new InputError(
      `${what} of ${width} x ${height} pixels holds ${data.length} bytes; 4 (RGBA) or 3 (RGB) a pixel are expected.`,
    );
  }
  return { data, width, height, channels };
}

/**
 * An `ImageBitmap` of anything that can be drawn, upright.
 * @param {any} given
 * @param {string} what
 * @returns {Promise<ImageBitmap>}
 */
export async function bitmapOf(given, what) {
  if (typeof ImageBitmap === "function" && given instanceof ImageBitmap) return given;
  try {
    return await createImageBitmap(given, {
      imageOrientation: "from-image",
      premultiplyAlpha: "none",
      colorSpaceConversion: "default",
    });
  } catch (error) {
    const kind = given === null || given === undefined ? String(given) : (given.constructor?.name ?? typeof given);
    throw explained(
      error,
      (reason) => new InputError(`${what} is ${kind}, which is no image that this browser reads (${reason}).`),
    );
  }
}

/**
 * @param {unknown} width
 * @param {unknown} height
 * @param {string} what
 */
function checkSides(width, height, what) {
  if (![width, height].every((side) => Number.isInteger(side) && Number(side) >= 1 && Number(side) <= MAX_SIDE)) {
    throw new InputError(`${what} has ${width} x ${height} pixels; a side is 1 to ${MAX_SIDE}.`);
  }
}
