// Names of files, as Python makes them (ntre_deploy/files.py, studio/exports.py).

/** `text` as a file name: letters, digits and `_.+-` stay, everything else becomes `-`. @param {string} text */
export function plainName(text) {
  const name = text.replace(/[^\p{L}\p{N}_.+-]+/gu, "-").replace(/^\.+|\.+$/g, "") || "-";
  return [...name].slice(0, 120).join("");
}

/** `stem`, or with a number behind it where it is taken; it is taken then. @param {string} stem @param {Set<string>} taken */
export function freeName(stem, taken) {
  let found = stem;
  for (let number = 2; taken.has(found.toLowerCase()); number++) found = `${stem}-${number}`;
  taken.add(found.toLowerCase());
  return found;
}

/** @param {string} name @returns {[stem: string, suffix: string]} */
export function parted(name) {
  const dot = name.lastIndexOf(".");
  return dot > 0 ? [name.slice(0, dot), name.slice(dot)] : [name, ""];
}
