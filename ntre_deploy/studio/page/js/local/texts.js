// What an exported session says, as Python's studio/texts.py does; both fill in the same texts.

/** @param {string} name @param {Record<string, string>} values */
async function filled(name, values) {
  const answer = await fetch(new URL(`../../texts/${name}.txt`, import.meta.url));
  if (!answer.ok) throw new Error(`texts/${name}.txt is missing; serve the folder whole.`);
  const text = await answer.text();
  return text.replace(/\{\{|\}\}|\{(\w+)\}/g, (found, key) => (key ? values[key] : found[0]));
}

/** A text as Python writes it. @param {string} text */
function quoted(text) {
  const escaped = text.replaceAll("\\", "\\\\");
  return text.includes("'") && !text.includes('"') ? `"${escaped}"` : `'${escaped.replaceAll("'", "\\'")}'`;
}

/** A word for a shell. @param {string} text */
function word(text) { return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`; }

const options = (all) => all.map((option) => ` \\\n      ${option}`).join("");

/** @param {string} bundle @param {Map<string, string[][]>} files  class -> names of its photos and masks */
export function script(bundle, files) {
  const shots = [...files].map(([name, pairs]) => `    ${quoted(name)}: [\n${pairs.map(([image, mask]) => `        (${quoted(image)}, ${quoted(mask)}),\n`).join("")}    ],\n`);
  return filled("segment.py", { file: "segment.py", bundle: quoted(bundle), shots: shots.join("") });
}

/** @param {string} bundle @param {string} title @param {Map<string, string[][]>} files */
export function readme(bundle, title, files) {
  const all = [...files];
  return filled("README.md", {
    title,
    classes: all.map(([name, pairs]) => `${name} (${pairs.length} shot${pairs.length === 1 ? "" : "s"})`).join(", "),
    quoted: word(bundle),
    memories: options(all.map(([name]) => `--memory ${word(`_memories/${name}.safetensors`)}`)),
    supports: options(all.flatMap(([name, pairs]) => pairs.map(([image, mask]) => `--support ${word(`${name}=${name}/images/${image},${name}/masks/${mask}`)}`))),
  });
}
