// Photos as files: their sizes, and smaller copies of them, as this browser decodes them.

// the same limits as on the server (studio/photos.py)
export const WORKING = 2048, THUMB = 320, MEGAPIXELS = 60, MAX_SIDE = 32767;

/** @param {Blob} blob @returns {Promise<ImageBitmap>} upright */
export function decoded(blob) { return createImageBitmap(blob, { imageOrientation: "from-image" }); }

/** Width and height of the upright photo, without decoding it; throws where it is none. @param {Blob} blob @returns {Promise<number[]>} */
export async function sizeOf(blob) {
  const image = new Image(), address = URL.createObjectURL(blob);
  try {
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = () => reject(new Error("no image"));
      image.src = address;
    });
    return [image.naturalWidth, image.naturalHeight];
  } finally {
    URL.revokeObjectURL(address);
  }
}

/** Width and height at which a photo is shown and marked. @param {number[]} full */
export function workingSize([width, height]) {
  const scale = Math.min(1, WORKING / Math.max(width, height));
  return [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
}

/** A smaller copy. @param {Blob} blob @param {number} width @param {number} height @param {number} quality @returns {Promise<Blob>} JPEG */
export async function scaled(blob, width, height, quality) {
  const bitmap = await decoded(blob), canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  // what is clear in a photo is white on paper
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  return canvas.convertToBlob({ type: "image/jpeg", quality });
}
