
const page = document.getElementById("page");

function element(name, content = [], more = {}) {
  const made = Object.assign(document.createElement(name), more);
  made.append(...[content].flat());
  return made;
}

function resolved(schema, told, depth = 0) {
  if (!schema || depth > 6) return {};
  if (!schema.$ref) return schema;
  const found = schema.$ref.split("/").slice(1).reduce((part, key) => part?.[key], told);
  return resolved(found, told, depth + 1);
}

// an example of what a schema allows, one value of each list
function example(schema, told, depth = 0) {
  const kind = resolved(schema, told);
  if (depth > 6) return "...";
  if (kind.anyOf) return example(kind.anyOf[0], told, depth + 1);
  if (kind.enum) return kind.enum[0];
  if (kind.type === "array") return [example(kind.items, told, depth + 1)];
  if (kind.properties) {
    const entries = Object.entries(kind.properties);
    return Object.fromEntries(entries.map(([name, part]) => [name, example(part, told, depth + 1)]));
  }
  const plain = { integer: 1, number: 0.5, boolean: true, object: {}, null: null };
  return kind.type in plain ? plain[kind.type] : kind.format === "binary" ? "(bytes)" : "text";
}

// `code` in a description
function prose(text) {
  return text.split("`").map((part, index) => (index % 2 ? element("code", part) : part));
}

function table(rows, heads) {
  const head = element("tr", heads.map((text) => element("th", text)));
  return element("table", [head, ...rows.map((row) => element("tr", row.map((cell) => element("td", cell))))]);
}

function curl(path, method, operation) {
  const words = ["curl"];
  if (method !== "get") words.push("-X", method.toUpperCase());
  const body = operation.requestBody?.content ?? {};
  if (body["multipart/form-data"]) {
    const parts = body["multipart/form-data"].schema.properties;
    for (const [name, part] of Object.entries(parts)) {
      words.push("-F", part.items?.format === "binary" ? `${name}=@FILE` : `${name}=NAME`);
    }
  } else if (body["application/json"]) {
    words.push("-H", "'Content-Type: application/json'", "-d", "@request.json");
  }
  return [...words, `${location.origin}${path}`].join(" ");
}

function operation(path, method, told, what) {
  const inside = [];
  if (what.description) inside.push(element("p", what.description));
  if (what.parameters?.length) {
    inside.push(element("h3", "Parameters"));
    const rows = what.parameters.map((p) => [element("code", p.name), p.in, prose(p.description ?? p.schema?.type ?? "")]);
    inside.push(table(rows, ["name", "in", ""]));
  }
  for (const [type, { schema }] of Object.entries(what.requestBody?.content ?? {})) {
    inside.push(element("h3", `Body, ${type}`));
    const kind = resolved(schema, told);
    const rows = Object.entries(kind.properties ?? {}).map(([name, part]) => [
      element("code", name),
      part.type !== "array" ? (part.type ?? "") : part.items?.format === "binary" ? "file, repeatable" : "repeatable",
      prose(part.description ?? ""),
    ]);
    if (rows.length) inside.push(table(rows, ["part", "", ""]));
    else inside.push(element("p", prose(kind.description ?? kind.type ?? "")));
  }
  inside.push(element("h3", "Answers"));
  const answers = Object.entries(what.responses).map(([status, answer]) => {
    const types = Object.keys(answer.content ?? {}).join(", ");
    return [element("code", status), prose(answer.description), types];
  });
  inside.push(table(answers, ["status", "", "types"]));
  const json = Object.entries(what.responses).find(([status]) => status < 300)?.[1].content?.["application/json"]?.schema;
  if (json?.$ref) inside.push(element("pre", JSON.stringify(example(json, told), null, 2)));
  inside.push(element("h3", "Try it"), element("pre", curl(path, method, what)));
  const head = [element("b", method.toUpperCase(), { className: "method" }), element("code", path)];
  return element("details", [element("summary", [...head, element("span", what.summary ?? "")]), element("div", inside)]);
}

try {
  const answer = await fetch("openapi.json");
  const told = await answer.json();
  const rooms = new Map();
  for (const [path, methods] of Object.entries(told.paths)) {
    for (const [method, what] of Object.entries(methods)) {
      const tag = what.tags?.[0] ?? "more";
      if (!rooms.has(tag)) rooms.set(tag, []);
      rooms.get(tag).push(operation(path, method, told, what));
    }
  }
  page.replaceChildren(
    element("h1", `${told.info.title} ${told.info.version}`),
    element("p", prose(told.info.description)),
    element("p", ["As a file: ", element("a", "openapi.json", { href: "openapi.json" })]),
    ...[...rooms].flatMap(([tag, all]) => [element("h2", tag), ...all]),
  );
} catch (error) {
  page.replaceChildren(element("p", `openapi.json cannot be read: ${error}`));
}
