// A draft tree as SVG: layout, then drawing. Text becomes text nodes, never markup.
//
// Wide: a column for each depth; a node's likeliest child goes on in its row, others below.
// Narrow: a row for each node, indented by its depth.

const SVG = "http://www.w3.org/2000/svg";
const GAP = 18, STEP = 15, HEAD = 34, BOX = 20, MARGIN = 2, LONGEST = 16;
const FATES = { "+": "accepted", "-": "rejected", ".": "unreached", "/": "left-out" };

const ruler = document.createElement("canvas").getContext("2d");

function widthOf(text, size) {
  ruler.font = `${size}px ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace`;
  return ruler.measureText(text).width;
}

export function element(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shortened(text) {
  const characters = Array.from(text);
  return characters.length > LONGEST ? characters.slice(0, LONGEST - 1).join("") + "…" : text;
}

function share(thousandths) {
  if (thousandths >= 995) return "1.0";
  return thousandths < 5 ? ".00" : (thousandths / 1000).toFixed(2).slice(1);
}

// The nodes of a round, the root first, the target's own token last; each knows its children.
export function treeOf(round, root, own) {
  const nodes = [{ ...root, depth: 0, fate: "root", children: [] }];
  round.nodes.forEach((node) => {
    const parent = nodes[node.parent + 1];
    const fate = FATES[node.sign];
    const made = { ...node, fate, depth: parent.depth + 1, path: (parent.path ?? 1) * node.probability, children: [] };
    parent.children.push(made);
    nodes.push(made);
  });
  const likeliestFirst = (one, other) => other.probability - one.probability;
  nodes.forEach((node) => node.children.sort(likeliestFirst));
  if (own) {
    const last = nodes.findLast((node) => node.fate === "accepted") ?? nodes[0];
    const made = { ...own, depth: last.depth + 1, fate: "own", children: [] };
    last.children.push(made);
    nodes.push(made);
  }
  return nodes;
}

// Rows that a node's subtree takes at each level below it, the node itself at row 0: a later child's
// subtree is moved down just so far that no two nodes meet.
function settle(node) {
  const tops = [0], bottoms = [0];
  node.children.forEach((child) => {
    const [above, below] = settle(child);
    child.shift = Math.max(0, ...above.map((top, level) => (bottoms[level + 1] ?? -1) + 1 - top));
    above.forEach((top, level) => {
      tops[level + 1] ??= top + child.shift;
      bottoms[level + 1] = below[level] + child.shift;
    });
  });
  return [tops, bottoms];
}

function wideRows(node, row = 0) {
  node.row = row;
  node.children.forEach((child) => wideRows(child, row + child.shift));
}

function narrowRows(node, row = 0) {
  node.row = row;
  // The target's own token stands beside the node it follows, not below all that was rejected.
  const ordered = node.children.toSorted((one, other) => (other.fate === "own") - (one.fate === "own"));
  return ordered.reduce((next, child) => narrowRows(child, next), row + 1);
}

function rows(nodes, isWide) {
  if (!isWide) return narrowRows(nodes[0]);
  settle(nodes[0]);
  wideRows(nodes[0]);
  return 1 + Math.max(...nodes.map((node) => node.row));
}

function layout(nodes, isWide, numLevels) {
  const numRows = rows(nodes, isWide);
  const isRoomy = isWide && numRows <= 9; // room for numbers below the boxes
  const columns = Array.from({ length: numLevels + 1 }, () => 24);
  nodes.forEach((node) => {
    node.label = shortened(node.text);
    node.share = node.probability === undefined ? "" : share(1000 * node.probability);
    node.width = widthOf(node.label, 12) + 12;
    if (node.share && !isRoomy) node.width += widthOf(node.share, 9.5) + 6;
    columns[node.depth] = Math.max(columns[node.depth], node.width);
  });
  const lefts = [MARGIN];
  columns.forEach((width, depth) => lefts.push(lefts[depth] + (isWide ? width + GAP : STEP)));
  const pitch = isRoomy ? 40 : BOX + 5;
  nodes.forEach((node) => {
    node.x = lefts[node.depth];
    node.y = HEAD + node.row * pitch;
  });
  const right = Math.max(...nodes.map((node) => node.x + node.width), lefts[numLevels + 1]);
  return { nodes, isWide, isRoomy, lefts, columns, width: right + MARGIN, height: HEAD + numRows * pitch };
}

function edge(parent, node, plan) {
  const [x, y] = [node.x, node.y + BOX / 2];
  if (!plan.isWide) return `M${parent.x + 6},${parent.y + BOX}V${y}H${x}`;
  const [start, bend] = [parent.y + BOX / 2, x - GAP];
  if (parent.row === node.row) return `M${parent.x + parent.width},${start}H${x}`;
  return `M${parent.x + parent.width},${start}H${bend}C${bend + GAP / 2},${start} ${bend + GAP / 2},${y} ${x},${y}`;
}

function drawNode(node, plan) {
  const group = element("g", { class: node.fate });
  const place = { x: node.x, y: node.y, height: BOX, rx: 4 };
  group.append(element("title", {}, node.about));
  group.append(element("rect", { ...place, width: node.width, class: "box" }));
  if (node.probability !== undefined) {
    const inner = { x: node.x + 1, y: node.y + 1, height: BOX - 2, rx: 3, class: "fill" };
    group.append(element("rect", { ...inner, width: Math.max(0, (node.width - 2) * node.probability) }));
  }
  group.append(element("text", { x: node.x + 6, y: node.y + 14, class: "token" }, node.label));
  if (node.share) {
    const below = { x: node.x + node.width / 2, y: node.y + BOX + 10, "text-anchor": "middle" };
    const beside = { x: node.x + node.width - 5, y: node.y + 13.5, "text-anchor": "end" };
    group.append(element("text", { ...(plan.isRoomy ? below : beside), class: "share" }, node.share));
  }
  return group;
}

function drawOracle(svg, oracle, plan) {
  if (!oracle) return;
  const x = plan.lefts[oracle.depth + 1] - (plan.isWide ? GAP / 2 : 2);
  svg.append(element("line", { x1: x, x2: x, y1: 4, y2: plan.height, class: "dp" }));
  const isBefore = x > widthOf(oracle.label, 11) + 5; // there is room left of the line
  const anchor = { x: x + (isBefore ? -5 : 5), y: 12, "text-anchor": isBefore ? "end" : "start" };
  svg.append(element("text", { ...anchor, class: "dp-label" }, oracle.label));
}

// Draws a tree; oracle is {depth, label} or null. Returns the SVG.
export function draw(nodes, oracle, available) {
  const numLevels = Math.max(oracle ? oracle.depth : 0, ...nodes.map((node) => node.depth));
  let plan = layout(nodes, true, numLevels);
  // On a phone a little scrolling sideways is better than a node a row.
  if (plan.width > available * (available < 600 ? 1.5 : 1)) plan = layout(nodes, false, numLevels);
  const width = Math.max(plan.width, oracle ? 2 * widthOf(oracle.label, 11) : 0);
  const svg = element("svg", { width: Math.ceil(width), height: plan.height, role: "img" });
  plan.columns.forEach((column, depth) => {
    const x = plan.lefts[depth] + (plan.isWide ? column / 2 : STEP / 2);
    if (depth > 0) svg.append(element("text", { x, y: 27, class: "depth" }, String(depth)));
  });
  drawOracle(svg, oracle, plan);
  // Edges of the text's own path lie on top.
  const marks = ["unreached", "rejected", "left-out", "accepted", "own"];
  const edges = nodes.flatMap((parent) => parent.children.map((node) => [parent, node]));
  edges.sort((one, other) => marks.indexOf(one[1].fate) - marks.indexOf(other[1].fate));
  edges.forEach(([parent, node]) => svg.append(element("path", { d: edge(parent, node, plan), class: `edge ${node.fate}` })));
  nodes.forEach((node) => svg.append(drawNode(node, plan)));
  return svg;
}
