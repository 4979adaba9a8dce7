// The operator's page: shows every status that the process sends. At the operator's request, and after a question, it
// ends streams and sets latencies.

const by = (id) => document.getElementById(id);

/** Whole numbers with thin groups, others with one to three digits that matter. */
const number = (value, digits = 0) =>
  value === null || value === undefined ? "–" : value.toLocaleString("en", { maximumFractionDigits: digits });
const seconds = (value) => (value === null || value === undefined ? "–" : `${value.toFixed(2)} s`);
const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
const mebibytes = (bytes) => `${number(bytes / 2 ** 20, 1)} MiB`;

function duration(total) {
  const parts = [Math.floor(total / 3600), Math.floor(total / 60) % 60, total % 60];
  return parts.map((part) => String(part).padStart(2, "0")).join(":");
}

/** Everything is set as text: publishers choose some of it. */
function element(name, text, className) {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function latencies({ latency, latency_from, next_latency }) {
  const now = `${latency} s, set by ${latency_from}`;
  return next_latency === latency ? now : `${now}; ${next_latency} s from the next start on`;
}

/** What the publisher sends, in a few lines of facts. */
function published(report) {
  if (!report?.video && !report?.audio) return [];
  const named = ({ codec, profile }) => (codec || "unknown codec") + (profile ? ` (${profile})` : "");
  const rates = (track) => `${number(track.bits_per_second / 1000)} kbit/s, fullest second ${number(track.peak_bits_per_second / 1000)}`;
  const { video, audio, timing } = report;
  const lines = [];
  if (video) {
    const pace = video.frame_rate === null ? "" : `, ${number(video.frame_rate, 2)} frames/s${video.steady ? "" : ", varying"}`;
    const { gop, most_b_frames_in_a_row: row } = video;
    const keyframes = gop ? `every ${number(gop.median_seconds, 2)} s, at most ${number(gop.most_seconds, 2)} s` : number(video.keyframes);
    lines.push(["video sent", `${named(video)}${pace}, ${rates(video)}`]);
    lines.push(["keyframes sent", `${keyframes}, ${row ? `up to ${counted(row, "B-frame")} in a row` : "no B-frames"}`]);
  }
  if (audio) lines.push(["audio sent", `${named(audio)}, ${number(audio.sample_rate)} Hz, ${counted(audio.channels, "channel")}, ${rates(audio)}`]);
  const repairs = Object.values(timing.repairs).reduce((sum, count) => sum + count, 0);
  const health = [counted(timing.gaps, "gap"), counted(repairs, "repair")];
  if (timing.sound_ahead_ms !== null) {
    health.push(`sound ${number(Math.abs(timing.sound_ahead_ms))} ms ${timing.sound_ahead_ms < 0 ? "behind" : "ahead of"} the picture`);
  }
  if (timing.drift_ms_per_minute !== null) health.push(`drift ${number(timing.drift_ms_per_minute, 1)} ms a minute`);
  lines.push(["timestamps sent", health.join(", ")]);
  return lines;
}

/** What viewers do not get, and what the publisher should change. */
function showAdvice(article, report) {
  const unreadable = report?.unreadable ?? [];
  const warning = article.querySelector(".unreadable");
  const text = unreadable.map(({ kind, reason }) => `The publisher's ${kind} cannot be read, and viewers do not get it: ${reason}.`).join(" ");
  // Screen readers speak an alert whenever it is written.
  if (warning.textContent !== text) warning.textContent = text;
  warning.hidden = !text;
  const advice = report?.advice ?? [];
  const details = article.querySelector("details");
  details.hidden = !advice.length;
  details.querySelector("summary").textContent = `To change in the publisher: ${advice.length}`;
  details.querySelector("ul").replaceChildren(...advice.map(({ change, reason }) => {
    const item = element("li", change);
    item.append(element("p", reason));
    return item;
  }));
}

/** One line of facts: name, text, and whether it is beyond its budget. */
function facts(stream) {
  const { counters, packager, worker, delays, source, stored } = stream;
  const against = (value, budget) => `${seconds(value)} of ${seconds(budget)}`;
  const late = packager.late_samples + counters.late_audio_frames;
  const lines = [
    ["publisher", stream.published ? "here" : "away: it is waited for", !stream.published],
    ["age", duration(stream.age_seconds)],
    ["latency", latencies(stream)],
    ["source", source ? `${source.width}×${source.height}, ${number(source.frame_rate, 2)} frames/s` : "not known yet"],
    ...published(stream.publish_report),
    ["in no segment yet", against(stream.lag_seconds, stream.lag_budget_seconds), stream.lag_seconds > stream.lag_budget_seconds],
    ...delays.flatMap(({ stage, budget_seconds, broken, rungs }) => {
      const ages = Object.values(rungs);
      if (!ages.length) return [];
      const [last, worst] = [(age) => age.last_seconds, (age) => age.worst_seconds].map((of) => Math.max(...ages.map(of)));
      return [[`age when ${stage}`, `${against(last, budget_seconds)}, lately up to ${seconds(worst)}`, broken]];
    }),
    ["pictures", `${number(worker.decoded)} decoded, ${number(worker.encoded)} encoded over all rungs, ${number(worker.decode_errors)} damaged`],
    ["pictures dropped", number(counters.shed_units), counters.shed_units > 0],
    ["worker restarts", number(counters.worker_restarts), counters.worker_restarts > 0],
    ["worker memory", mebibytes(stream.worker_memory_bytes)],
    ["misaligned cuts", number(packager.misaligned_cuts), packager.misaligned_cuts > 0],
    ["late or undecodable", number(late + packager.undecodable_samples), late + packager.undecodable_samples > 0],
  ];
  if (stored) {
    const { segments, bytes, failures, gaps, last_failure } = stored;
    lines.push(["in the store", `${number(segments)} segments, ${mebibytes(bytes)}`]);
    lines.push(["failed writes", last_failure ? `${number(failures)}, last: ${last_failure}` : number(failures), failures > 0]);
    lines.push(["gaps in the store", number(gaps), gaps > 0]);
  }
  return lines;
}

function rows(stream) {
  const planned = new Map((stream.rungs ?? []).map((rung) => [rung.name, rung]));
  const lately = new Map((stream.rungs ?? []).map((rung, at) => [rung.name, stream.worker.rungs[at]]));
  const names = [...planned.keys(), ...Object.keys(stream.output).filter((name) => !planned.has(name))];
  return names.map((name) => {
    const rung = planned.get(name);
    const out = stream.output[name] ?? {};
    const work = lately.get(name);
    const unplanned = name === "audio" ? "–" : "as published";
    return [
      name,
      rung ? `${rung.width}×${rung.height}` : unplanned,
      rung ? number(rung.frame_rate[0] / rung.frame_rate[1], 2) : unplanned,
      rung ? number(rung.bitrate / 1000) : "–",
      out.bits_per_second ? number(out.bits_per_second / 1000) : "–",
      work ? number(work.frame_rate_tenths / 10, 1) : "–",
      work?.quantiser_tenths ? number(work.quantiser_tenths / 10, 1) : "–",
      number(out.segments ?? 0),
      number(out.gaps ?? 0),
    ];
  });
}

const shown = new Map();

function card(key, stream) {
  if (!shown.has(key)) {
    const made = by("stream").content.firstElementChild.cloneNode(true);
    made.querySelector("h2").textContent = key;
    const { app, name } = stream;
    for (const [action, ask] of [["end", askToEnd], ["latency", askForLatency]]) {
      const button = made.querySelector(`button.${action}`);
      button.setAttribute("aria-label", `${button.textContent} (${key})`);
      button.addEventListener("click", () => ask(app, name));
    }
    by("streams").append(made);
    shown.set(key, made);
  }
  return shown.get(key);
}

function showStream(stream) {
  const key = `${stream.app}/${stream.name}`;
  const article = card(key, stream);
  article.querySelector("dl").replaceChildren(
    ...facts(stream).flatMap(([name, text, over]) => [element("dt", name), element("dd", text, over ? "over" : "")]),
  );
  article.querySelector("tbody").replaceChildren(
    ...rows(stream).map((cells) => {
      const row = document.createElement("tr");
      row.append(...cells.map((cell) => element("td", cell)));
      return row;
    }),
  );
  showAdvice(article, stream.publish_report);
  const image = article.querySelector("img");
  if (!stream.picture) image.hidden = true;
  // A new one every few seconds; asking each time that one is due is enough. The old one stays until that is there.
  const version = String(Math.floor(stream.age_seconds / 4));
  if (stream.picture && article.dataset.picture !== version) {
    article.dataset.picture = version;
    const fresh = document.createElement("img");
    fresh.alt = image.alt;
    fresh.src = `picture/${encodeURIComponent(stream.app)}/${encodeURIComponent(stream.name)}?${version}`;
    fresh.decode().then(() => article.querySelector("img").replaceWith(fresh), () => {});
  }
  return key;
}

function show(status) {
  const { probe } = status;
  by("state").textContent = probe.state;
  by("state").className = `state ${probe.state}`;
  by("why").textContent = probe.live.ok ? probe.ready.reason : probe.live.reason;
  document.title = `${probe.state} – encoder`;
  const facts = [`${probe.streams ?? 0} of ${probe.capacity ?? 0} places taken`];
  if (status.version) facts.push(`encoder ${status.version} (${status.revision})`, `up ${duration(status.uptime_seconds)}`);
  if (status.ladder) facts.push(`ladder ${status.ladder}`);
  by("facts").textContent = facts.join(" · ");
  const present = new Set((status.streams ?? []).map((stream) => showStream(stream)));
  for (const [key, article] of shown) {
    if (!present.has(key)) {
      article.remove();
      shown.delete(key);
    }
  }
  const warnings = status.warnings ?? [];
  by("warnings").replaceChildren(
    ...warnings.map(({ at, level, text }) => {
      const item = element("li", "", level);
      const time = element("time", `${new Date(at * 1000).toISOString().slice(11, 19)} UTC`);
      item.append(time, ` ${text}`);
      return item;
    }),
  );
  by("no-warnings").hidden = warnings.length > 0;
  window.__status = status;
}

// --- changes ---

/** The token for changes from another machine: in memory only. */
let token = null;

/** What a dialog says went wrong; nothing hides the line. */
function problem(dialog, text) {
  const line = dialog.querySelector(".problem");
  line.textContent = text;
  line.hidden = !text;
}

/**
 * Opens a dialog. `submit` gets the form and the pressed button; the dialog stays open, and shows the message, when it
 * throws. Resolves to its result, or to undefined when the operator cancels (Escape or the button).
 */
function asked(dialog, submit) {
  const form = dialog.querySelector("form");
  form.reset();
  for (const button of form.querySelectorAll("button")) button.disabled = false;
  problem(dialog, "");
  let result;
  const over = new AbortController();
  const { signal } = over;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const buttons = form.querySelectorAll("button[type=submit]");
    for (const button of buttons) button.disabled = true;
    problem(dialog, "");
    try {
      result = await submit(form.elements, event.submitter);
      if (!signal.aborted) dialog.close();
    } catch (error) {
      if (!signal.aborted) problem(dialog, error.message);
    } finally {
      if (!signal.aborted) for (const button of buttons) button.disabled = false;
    }
  }, { signal });
  dialog.querySelector(".cancel").addEventListener("click", () => dialog.close(), { signal });
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      over.abort();
      resolve(result);
    }, { signal });
    dialog.showModal();
  });
}

/** Asks for the token; false when the operator cancels. */
async function askForToken(why) {
  const dialog = by("token");
  const answer = asked(dialog, ({ token: field }) => field.value.trim());
  problem(dialog, why);
  const given = await answer;
  dialog.querySelector("input").value = "";
  if (given) token = given;
  return Boolean(given);
}

/** Sends a change, with the token where one is needed. Throws with the server's own words when it is refused. */
async function change(method, path, body) {
  for (;;) {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    let answer;
    try {
      answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal: AbortSignal.timeout(15000) });
    } catch {
      throw new Error("The process does not answer. Whether anything was changed is not known.");
    }
    const told = await answer.json().catch(() => ({}));
    if (answer.ok) return told;
    const error = told.error ?? `The process answers with status ${answer.status}.`;
    if (answer.status !== 401) throw new Error(error);
    const why = token ? "This token is not the right one." : "";
    token = null;
    if (!(await askForToken(why))) throw new Error(error);
  }
}

let doneShown;
function done(text) {
  by("done").textContent = text;
  by("done").hidden = false;
  clearTimeout(doneShown);
  doneShown = setTimeout(() => { by("done").hidden = true; }, 15000);
}

const resource = (app, name) => `streams/${encodeURIComponent(app)}/${encodeURIComponent(name)}`;

function named(dialog, app, name) {
  dialog.querySelector(".stream").textContent = `${app}/${name}`;
  return dialog;
}

async function askToEnd(app, name) {
  const told = await asked(named(by("end"), app, name), ({ reason, ban }) => {
    const body = {};
    if (reason.value.trim()) body.reason = reason.value.trim();
    if (ban.value) body.ban_seconds = Number(ban.value);
    return change("DELETE", resource(app, name), body);
  });
  if (!told) return;
  const banned = told.banned_until ? ` Nobody may publish it before ${told.banned_until}.` : "";
  done(`${app}/${name} is ended.${banned}`);
}

async function askForLatency(app, name) {
  const path = `${resource(app, name)}/latency`;
  const stream = (window.__status?.streams ?? []).find((each) => each.app === app && each.name === name);
  const dialog = named(by("latency"), app, name);
  dialog.querySelector(".now").textContent = stream ? `${stream.latency} s` : "its latency";
  const answer = asked(dialog, ({ latency }, pressed) => (
    pressed?.classList.contains("configured") ? change("DELETE", path) : change("PUT", path, { latency: latency.valueAsNumber })
  ));
  if (stream) dialog.querySelector("input").value = stream.next_latency;
  const told = await answer;
  if (told) done(`${app}/${name} will have ${told.next.latency} s from its next start on.`);
}

let silence;
/** Without a word for five seconds the page says so; the browser reconnects by itself. */
function heard() {
  by("lost").hidden = true;
  clearTimeout(silence);
  silence = setTimeout(() => { by("lost").hidden = false; }, 5000);
}

const events = new EventSource("events");
events.onmessage = ({ data }) => {
  heard();
  show(JSON.parse(data));
};
heard();
