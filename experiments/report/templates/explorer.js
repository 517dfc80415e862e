// Chooses a policy, a text and a round of the page's data, and shows it.

const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);
const view = { policy: 0, text: 0, round: 0 };

function make(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

const token = (place) => ({ text: data.tokens[place][0], id: data.tokens[place][1] });

function unpack(raw) {
  const [position, depth, drafted, verified, accepted, emitted, ms, places, parents, shares, signs] = raw;
  const nodes = places.map((place, node) => {
    const [parent, probability, sign] = [parents[node], shares[node] / 1000, signs[node]];
    return { ...token(place), parent, probability, sign };
  });
  return { position, depth, drafted, verified, accepted, emitted, ms, nodes };
}

const text = () => data.texts[view.text];
const roundsHere = () => data.rounds[view.policy][view.text];
const family = () => data.policies[view.policy].family;

function foresightAt(position) {
  if (!family()) return null;
  const [member, depth, drafted, verified, accepted, emitted, ms] = data.oracle[family()][view.text][position];
  return { spec: data.members[family()][member], depth, drafted, verified, accepted, emitted, ms };
}

// The token at a place of the text, and what the target gave it.
function said(place) {
  const target = text().target[place];
  const sure = target === null ? "" : `, ${target.toFixed(3)} by the target`;
  return { ...token(text().tokens[place]), sure };
}

function showStrip() {
  const rounds = roundsHere(), strip = find("strip");
  const plans = rounds.map((raw) => foresightAt(raw[0]));
  const top = Math.max(1, ...rounds.map((raw) => raw[1]), ...plans.map((plan) => plan?.depth ?? 0));
  const svg = element("svg", { viewBox: `0 0 ${rounds.length} ${top}`, preserveAspectRatio: "none" });
  svg.style.width = `min(100%, ${16 * rounds.length}px)`;
  const bar = (name, round, height, y) => svg.append(element("rect", { class: name, x: round + 0.1, width: 0.8, y, height }));
  rounds.forEach((raw, round) => {
    bar("drafted", round, raw[1], top - raw[1]);
    bar("accepted", round, raw[4], top - raw[4]);
    if (plans[round]) bar("dp", round, top / 32, Math.max(0, top - plans[round].depth - top / 64));
  });
  svg.append(element("rect", { class: "here", width: 1, height: top }));
  strip.replaceChildren(svg);
  strip.setAttribute("aria-valuemax", rounds.length);
}

function showText() {
  const prompt = make("span", "prompt", text().prompt);
  const tokens = text().said.map((piece, place) => {
    const span = make("span", "token");
    piece.split("\n").forEach((part, line) => span.append(...(line > 0 ? [make("span", "break", "↵"), "\n", part] : [part])));
    const { id, sure } = said(place);
    span.title = `token ${place + 1}: ${id}${sure}`;
    span.dataset.place = place;
    return span;
  });
  find("said").replaceChildren(prompt, ...tokens);
}

function markText(round, plan) {
  const panel = find("said");
  const first = round.position + 1, next = first + round.emitted;
  panel.querySelectorAll(".token").forEach((span, place) => {
    const names = ["token"];
    if (place === round.position) names.push("root");
    else if (place >= next) names.push("later");
    else if (place >= first) names.push(place < first + round.accepted ? "accepted" : "own");
    if (plan && place === round.position + plan.emitted) names.push("dp-end");
    span.className = names.join(" ");
  });
  const here = panel.querySelector(".root");
  const isSeen = here.offsetTop > panel.scrollTop + 20 && here.offsetTop + 60 < panel.scrollTop + panel.clientHeight;
  if (!isSeen) panel.scrollTop = here.offsetTop - panel.clientHeight / 3;
}

const sum = (numbers) => numbers.reduce((total, one) => total + one, 0);

// Milliseconds of dp's own rounds from a position on.
function foreseenMs(position) {
  let ms = 0;
  for (let here = position; here < text().tokens.length - 1;) {
    const plan = foresightAt(here);
    ms += plan.ms;
    here += plan.emitted;
  }
  return ms;
}

function factRow(name, title, facts, times) {
  const row = make("tr", name, Object.assign(make("th", "", title), { scope: "row" }));
  const { depth, drafted, verified, accepted, emitted } = facts;
  const counts = [depth, drafted, verified, accepted, emitted].map(String);
  row.append(...[...counts, ...times.map((ms) => ms.toFixed(1))].map((cell) => make("td", "", cell)));
  return row;
}

function showFacts(round, plan) {
  const rest = round.ms ? roundsHere().slice(view.round).map((raw) => sum(raw[6])) : [];
  const times = round.ms ? [rest[0], sum(rest)] : [];
  const own = factRow("", make("code", "", data.policies[view.policy].name), round, times);
  if (round.ms) {
    const parts = ["draft", "verify", "other"].map((part, n) => `${part} ${round.ms[n].toFixed(2)} ms`);
    own.children[6].title = parts.join(", ");
  }
  const rows = [own];
  if (plan) {
    const title = make("span", "", "dp here: ", make("code", "", plan.spec));
    rows.push(factRow("dp", title, plan, [plan.ms, foreseenMs(round.position)]));
  }
  find("facts").tBodies[0].replaceChildren(...rows);
}

function showTree(round, plan) {
  const root = said(round.position);
  root.about = `the pending token: ${root.id}${root.sure}`;
  let own = null;
  if (round.emitted > round.accepted) {
    own = said(round.position + round.accepted + 1);
    own.about = `the target's own: ${own.id}${own.sure}`;
  }
  const nodes = treeOf(round, root, own);
  nodes.forEach((node) => {
    node.about ??= `${node.fate.replace("left-out", "right, but not verified")}: ${node.id}, depth ${node.depth}, ` +
      `${node.probability.toFixed(3)} by the draft model, its path ${node.path.toFixed(3)}`;
  });
  const label = plan && (plan.depth === 0 ? "dp: no draft" : `dp: ${plan.depth} ${plan.depth === 1 ? "level" : "levels"}, ${plan.verified} verified`);
  const panel = find("tree");
  const svg = draw(nodes, plan && { depth: plan.depth, label }, panel.clientWidth);
  const path = nodes.filter((node) => node.fate === "accepted").map((node) => node.text).join(" ");
  svg.setAttribute("aria-label", `${round.verified} tokens verified, ${round.accepted} accepted${path && ": " + path}${own ? "; the target's own: " + own.text : ""}`);
  panel.replaceChildren(svg);
}

function show() {
  const rounds = roundsHere(), round = unpack(rounds[view.round]), plan = foresightAt(round.position);
  find("strip").querySelector(".here").setAttribute("x", view.round);
  const which = `round ${view.round + 1} of ${rounds.length}`;
  find("strip").setAttribute("aria-valuenow", view.round + 1);
  find("strip").setAttribute("aria-valuetext", which);
  find("which").textContent = which;
  find("back").disabled = view.round === 0;
  find("on").disabled = view.round === rounds.length - 1;
  markText(round, plan);
  showFacts(round, plan);
  showTree(round, plan);
  document.querySelectorAll("[data-oracle]").forEach((part) => { part.hidden = !plan; });
  history.replaceState(null, "", `#policy=${view.policy}&text=${view.text}&round=${view.round}`);
}

// The round in which a place of the text was emitted; the first for what prefill gave.
function roundWith(place) {
  return Math.max(0, roundsHere().findLastIndex((raw) => raw[0] < place));
}

function go(round) {
  view.round = Math.min(Math.max(0, round), roundsHere().length - 1);
  show();
}

// Another policy is shown where the last one was.
function choosePolicy(policy) {
  const position = roundsHere()[view.round][0];
  view.policy = policy;
  showStrip();
  go(roundWith(position + 1));
}

function chooseText(chosen, round = 0) {
  view.text = chosen;
  showText();
  showStrip();
  find("said").scrollTop = 0;
  go(round);
}

function fill(select, labels, choose) {
  select.append(...labels.map((label, value) => Object.assign(make("option", "", label), { value })));
  select.addEventListener("change", () => choose(Number(select.value)));
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, .wide")) return;
  const isOnStrip = event.target === find("strip");
  const targets = { ArrowLeft: view.round - 1, ArrowRight: view.round + 1 };
  if (isOnStrip) Object.assign(targets, { Home: 0, End: Infinity, ArrowDown: view.round - 1, ArrowUp: view.round + 1 });
  if (!(event.key in targets)) return;
  event.preventDefault();
  go(targets[event.key]);
}

function listen() {
  find("back").addEventListener("click", () => go(view.round - 1));
  find("on").addEventListener("click", () => go(view.round + 1));
  find("strip").addEventListener("pointerdown", (event) => {
    const box = find("strip").firstChild.getBoundingClientRect();
    go(Math.floor((event.clientX - box.left) / box.width * roundsHere().length));
  });
  find("said").addEventListener("click", (event) => {
    const span = event.target.closest(".token");
    if (span) go(roundWith(Number(span.dataset.place)));
  });
  document.addEventListener("keydown", onKey);
  let width = window.innerWidth; // phones change the height while scrolling
  window.addEventListener("resize", () => {
    if (window.innerWidth !== width) show();
    width = window.innerWidth;
  });
}

function start() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const number = (name, limit) => Math.min(Math.max(0, Number(wanted.get(name)) || 0), limit - 1);
  fill(find("policy"), data.policies.map((policy) => policy.name), choosePolicy);
  fill(find("text"), data.texts.map((one) => one.label), (chosen) => chooseText(chosen));
  find("explorer").hidden = false;
  const firstDrafting = data.rounds.findIndex((texts) => texts[0].some((raw) => raw[1] > 0));
  view.policy = wanted.has("policy") ? number("policy", data.policies.length) : Math.max(0, firstDrafting);
  find("policy").value = view.policy;
  const chosen = number("text", data.texts.length);
  find("text").value = chosen;
  listen();
  chooseText(chosen, Number(wanted.get("round")) || 0);
}

start();
