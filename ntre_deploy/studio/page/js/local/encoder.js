// A worker that makes files of label maps, so that the page answers meanwhile.

import { crc32, labelme, png, resized, runs } from "./formats.js";

/** CRC-32 of a file, read in pieces. @param {Blob} blob */
async function crc(blob) {
  let value = 0;
  const reader = blob.stream().getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) value = crc32(part.value, value);
  return value;
}

const calls = { crc, labelme, png, resized, runs };

addEventListener("message", async ({ data: { number, call, args } }) => {
  try {
    postMessage({ number, value: await calls[call](...args) });
  } catch (error) {
    postMessage({ number, error: error.message });
  }
});
