// Experiment: exposures, verdict, the primary metric as its interval narrows, and every metric.
import { Bones, Notice, Table, Trouble, colourOf, count, html, labelOf, short, useAnswer, useEffect, useRef, useState } from "/room/parts.js";

const percent = (value, places = 2) => (value === null ? "–" : `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(places)} %`);
const range = (lower, upper) => (lower === null || upper === null ? "" : `${percent(lower)} to ${percent(upper)}`);
const pText = (value) => (value === null ? "–" : value < 0.001 ? "< 0.001" : value.toPrecision(2));
const words = (name) => name.replaceAll("_", " ");
const mean = (value) => (value === null ? "–" : Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(4));

const clock = (seconds, step) => {
  const at = new Date(1000 * seconds);
  if (step >= 86400) return at.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
  return at.toLocaleTimeString("en-GB", step < 60 ? {} : { hour: "2-digit", minute: "2-digit" });
};

let uplot;
const loadPlot = () => {
  uplot ??= new Promise((resolve, reject) => {
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = "/room/vendor/uplot.css";
    const script = document.createElement("script");
    script.src = "/room/vendor/uplot.js";
    script.onload = () => resolve(window.uPlot);
    script.onerror = () => reject(new Error("uPlot cannot be loaded"));
    document.head.append(style, script);
  });
  return uplot;
};

const inkOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function Course({ course, arm, label }) {
  const place = useRef(null);
  useEffect(() => {
    let plot;
    let isGone = false;
    const curve = course.arms[arm];
    const draw = () =>
      loadPlot().then((UPlot) => {
        if (isGone || !place.current) return;
        plot?.destroy();
        const [ink, faint, colour] = [inkOf("--faint"), inkOf("--line"), inkOf("--accent")];
        const axis = { stroke: ink, grid: { stroke: faint, width: 1 }, ticks: { stroke: faint, width: 1 }, font: "12px system-ui" };
        const bounds = [...curve.lower, ...curve.upper].filter((one) => one !== null).sort((a, b) => a - b);
        const at = (share) => bounds[Math.min(bounds.length - 1, Math.max(0, Math.round(share * (bounds.length - 1))))];
        const low = Math.min(0, at(0.04)), high = Math.max(0, at(0.96));
        const pad = 0.08 * (high - low || 1);
        plot = new UPlot({
          width: place.current.clientWidth, height: 260, legend: { show: false },
          cursor: { drag: { x: false, y: false } },
          scales: { y: { range: [low - pad, high + pad] } },
          axes: [{ ...axis, values: (_, ticks, __, ___, step) => ticks.map((one) => clock(one, step)) }, { ...axis, size: 64, values: (_, ticks) => ticks.map((one) => percent(one, 0)) }],
          series: [{}, { stroke: "transparent", points: { show: false } }, { stroke: "transparent", points: { show: false } },
            { stroke: colour, width: 2.5, points: { show: false } }],
          bands: [{ series: [2, 1], fill: `${colour}33` }],
          hooks: { draw: [(u) => {
            const y = Math.round(u.valToPos(0, "y", true));
            u.ctx.save();
            u.ctx.strokeStyle = ink;
            u.ctx.setLineDash([4, 4]);
            u.ctx.beginPath();
            u.ctx.moveTo(u.bbox.left, y);
            u.ctx.lineTo(u.bbox.left + u.bbox.width, y);
            u.ctx.stroke();
            u.ctx.restore();
          }] },
        }, [course.times_ms.map((one) => one / 1000), curve.lower, curve.upper, curve.effect], place.current);
      });
    draw();
    const fit = new ResizeObserver(() => plot && place.current && plot.setSize({ width: place.current.clientWidth, height: 260 }));
    fit.observe(place.current);
    window.addEventListener("segue-theme", draw);
    return () => {
      isGone = true;
      fit.disconnect();
      window.removeEventListener("segue-theme", draw);
      plot?.destroy();
    };
  }, [course, arm]);
  return html`<div class="plot" ref=${place} role="img" aria-label=${label}></div>`;
}

function Forest({ effects }) {
  const reach = Math.max(1, ...effects.flatMap((one) => [one.relative_lower_percent, one.relative_upper_percent]).filter((one) => one !== null).map(Math.abs));
  const limit = Math.min(reach, 60);
  const x = (value) => 50 + (46 * Math.max(-limit, Math.min(limit, value))) / limit;
  return (one) =>
    one.relative_lower_percent === null
      ? ""
      : html`<svg class="forest" viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">
          <line x1="50" x2="50" y1="0" y2="12" class="forest-zero" />
          <line x1=${x(one.relative_lower_percent)} x2=${x(one.relative_upper_percent)} y1="6" y2="6" class="forest-range" />
          <rect x=${x(one.effect_percent) - 1} y="3" width="2" height="6" class="forest-dot" /></svg>`;
}

const WORD = { better: "good", holds: "good", worse: "bad", broken: "bad" };

export function Experiment({ room }) {
  const [again, setAgain] = useState(0);
  const { answer, error } = useAnswer("experiment", {}, { again });
  useEffect(() => {
    const wait = setTimeout(() => document.visibilityState === "visible" && setAgain((before) => before + 1), 1000 * Math.max(2, answer?.again_s ?? 3));
    return () => clearTimeout(wait);
  }, [answer, again, error]);
  useEffect(() => {
    const look = () => document.visibilityState === "visible" && setAgain((before) => before + 1);
    document.addEventListener("visibilitychange", look);
    return () => document.removeEventListener("visibilitychange", look);
  }, []);
  if (!answer) return html`<section class="view">${error ? html`<${Trouble} error=${error} onAgain=${() => setAgain(again + 1)} />` : html`<${Bones} lines=${12} />`}</section>`;
  if (answer.state === "alone")
    return html`<section class="view"><${Notice} title="There is nothing to compare yet">This service has one arm, ${short(Object.values(answer.arms)[0])}. An experiment has two or more:
      <code class="block">${`python serve.py 'arms={C: popular, T1: {recommender: "run:<id>", pick: ranked}}'`}</code><//></section>`;
  if (answer.state === "quiet")
    return html`<section class="view"><${Notice} title="No listeners yet">The event log of ${answer.experiment} is empty. As soon as requests arrive, this page shows who gets which arm. To try it with simulated listeners:
      <code class="block">${`python simulate.py 'arms={C: "${location.origin}"}'`}</code><//></section>`;
  const keys = room.players.map((player) => player.key);
  const nameOfArm = (arm) => {
    const player = room.players.find((one) => one.key === arm);
    return player ? labelOf(player) : short(answer.arms[arm] ?? "not served any more");
  };
  const armOf = (arm) => html`<i class=${`dot ${colourOf(keys, arm)}`}></i>${arm}`;
  const total = answer.exposed.reduce((sum, one) => sum + one, 0);
  const isOff = answer.exposure_p_value !== null && answer.exposure_p_value < 0.001;
  const meanOf = (arm, metric) => {
    const of = answer.effects?.find((one) => one.metric === metric && (arm === answer.names[0] || one.treatment === arm));
    return of === undefined ? null : arm === answer.names[0] ? of.control_mean : of.treatment_mean;
  };
  const latencyOf = (arm) => ((ms) => (ms === null ? "–" : `${ms < 10 ? ms.toPrecision(2) : ms.toFixed(0)} ms`))(meanOf(arm, "mean_request_latency"));
  const fallbacksOf = (arm) => ((share) => (share !== null ? `${share.toFixed(1)} %` : answer.with_fallback && answer.effects ? "0 %" : "–"))(meanOf(arm, "fallback_percent"));
  const hours = (answer.last_ms - answer.first_ms) / 3600000;
  return html`<section class="view">
    <header class="subject"><div><p class="faint">Experiment</p><h1>${answer.experiment}</h1>
      <p>${count(total)} users, ${count(answer.events)} events in ${hours < 1 / 30 ? "a minute" : hours < 1 ? `${Math.round(60 * hours)} minutes` : hours < 48 ? `${hours.toFixed(1)} hours` : `${(hours / 24).toFixed(1)} days`}</p></div>
      <p class="faint">As of ${new Date(answer.computed_ms).toLocaleTimeString("en-GB")}; the numbers are those of <code>abtest.py</code></p></header>
    ${error && html`<p class="said said-error" role="alert">${error.message}</p>`}
    <article class="card">
      <h2>Who gets which arm</h2>
      <${Table} label="Who gets which arm" columns=${[
        { name: "arm" }, { name: "recommender" }, { name: "users", isNumber: true }, { name: "share, with the plan as a line" },
        { name: "share", isNumber: true }, { name: "plan", isNumber: true },
        { name: "latency", isNumber: true, title: "mean time that the service needs for an answer" },
        { name: "fallbacks", isNumber: true, title: "answers that no list gave" },
      ]} lines=${answer.names.map((arm, place) => ({ key: arm, cells: [
        armOf(arm), nameOfArm(arm), count(answer.exposed[place]),
        html`<span class="share"><span class=${`share-fill ${colourOf(keys, arm)}`} style=${{ width: `${(100 * answer.exposed[place]) / Math.max(1, total)}%` }}></span>
          <span class="share-plan" style=${{ left: `${100 * answer.planned[place]}%` }}></span></span>`,
        `${((100 * answer.exposed[place]) / Math.max(1, total)).toFixed(1)} %`, `${(100 * answer.planned[place]).toFixed(1)} %`,
        latencyOf(arm), fallbacksOf(arm),
      ] }))} />
      <p class=${isOff ? "warned" : "faint"}>${answer.split ?? (isOff ? "The split differs from the plan." : `The split agrees with the plan (p = ${pText(answer.exposure_p_value)}).`)}</p>
    </article>
    ${answer.state === "early"
      ? html`<${Notice} title="Too early to say">Effects are shown when each arm has ${answer.least_users} users with a finished session; the smallest has ${Math.min(...answer.counted)}. A mean of fewer would show single users.<//>`
      : html`
    <article class="card verdicts"><h2>Verdict</h2>
      ${Object.entries(answer.verdicts).map(([arm, verdict]) => html`<p key=${arm} class="verdict"><i class=${`dot ${colourOf(keys, arm)}`}></i><b>${arm}:</b> ${verdict}</p>`)}</article>
    ${Object.keys(answer.course.arms).map((arm) => {
      const now = answer.effects.find((one) => one.treatment === arm && one.metric === answer.primary);
      return html`<article key=${arm} class="card"><h2>${words(answer.primary)}: ${arm} against ${answer.names[0]}</h2>
        <p>Now ${percent(now.effect_percent)}; the interval that is valid at any time is ${range(now.always_valid_lower_percent, now.always_valid_upper_percent) || "not defined yet"} (${(100 * now.level).toFixed(1)} %). You may look as often as you like.</p>
        <${Course} course=${answer.course} arm=${arm} label=${`effect on ${words(answer.primary)} over time, with its always-valid interval; now ${percent(now.effect_percent)}`} /></article>`;
    })}
    <article class="card"><h2>Every metric</h2>
      <${Table} label="Every metric" columns=${[
        { name: "arm" }, { name: "metric" }, { name: "control", isNumber: true }, { name: "treatment", isNumber: true },
        { name: "effect", isNumber: true }, { name: "interval" }, { name: "p", isNumber: true }, { name: "decision" },
      ]} lines=${answer.effects.map((one) => ({ key: one.treatment + one.metric, cells: [
        armOf(one.treatment), html`${words(one.metric)}<span class="faint"> ${one.family}</span>`, mean(one.control_mean), mean(one.treatment_mean),
        html`<b>${percent(one.effect_percent)}</b>`,
        html`<span class="interval">${Forest({ effects: answer.effects })(one)}<span>${range(one.relative_lower_percent, one.relative_upper_percent)}</span></span>`,
        pText(one.holm_p_value ?? one.p_value),
        html`<span class=${`word word-${answer.withheld ? "none" : (WORD[one.decision] ?? "none")}`}>${one.decision}</span>`,
      ] }))} />
      ${!answer.effects.some((one) => one.metric === "fallback_percent") && html`<p class="faint">${answer.with_fallback ? "No answer was a fallback." : html`Whether an answer was a fallback is in the log only with <code>log.with_fallback=true</code>.`}</p>`}</article>
    ${answer.days.length > 0 && html`<article class="card"><h2>By day</h2><${Table} label="By day" columns=${[
      { name: "arm" }, { name: "day" }, { name: "users", isNumber: true },
      { name: "effect", isNumber: true }, { name: "interval" }, { name: "p", isNumber: true },
    ]} lines=${answer.days.map((one) => ({ key: one.treatment + one.part, cells: [
      armOf(one.treatment), one.part, count(one.control_users + one.treatment_users),
      html`<b>${percent(one.effect_percent)}</b>`, range(one.lower_percent, one.upper_percent), pText(one.p_value),
    ] }))} /></article>`}`}
  </section>`;
}
