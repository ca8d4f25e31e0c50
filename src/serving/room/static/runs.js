// Runs: the set-ups of the last comparison side by side.
import { Bones, Notice, Table, Trouble, html, request, useAnswer, useEffect, useState } from "/room/parts.js";

const digits = (value) => (Math.abs(value) >= 1000 ? value.toFixed(0) : value.toPrecision(4).replace(/\.?0+$/, ""));

const BETTER = { max: "higher is better", min: "lower is better" };

export function Runs({ room }) {
  const [again, setAgain] = useState(0);
  const { answer, error } = useAnswer("runs", {}, { again });
  const [picture, setPicture] = useState(null);
  const has = answer?.comparison?.has_picture;
  useEffect(() => {
    if (!has) return undefined;
    let address;
    request("/room/api/picture").then((response) => response.blob()).then((blob) => {
      const reader = new FileReader();
      reader.onload = () => setPicture(reader.result);
      reader.readAsDataURL(blob);
    }, () => {});
    return () => address;
  }, [has, again]);
  if (error) return html`<section class="view"><${Trouble} error=${error} onAgain=${() => setAgain(again + 1)} /></section>`;
  if (!answer) return html`<section class="view"><${Bones} lines=${10} /></section>`;
  const found = answer.comparison;
  if (!found)
    return html`<section class="view"><${Notice} title="No comparison yet">Train some set-ups and compare them, in the folder in which this service was started:
      <code class="block">python train.py -m model=track,artist,convex,contextual</code><code class="block">python compare.py</code><//></section>`;
  const isServed = (setup) => answer.served.some((name) => name.startsWith("run:") && setup.run.startsWith(name.slice(4)));
  return html`<section class="view">
    <header class="subject"><div><p class="faint">The last comparison</p><h1>Runs side by side</h1><p>${found.verdict}</p>
      ${found.disagreement && html`<p class="warned">${found.disagreement}</p>`}</div>
      <div class="subject-links">${room.mlflow
        ? html`<a class="button" href=${room.mlflow} target="_blank" rel="noreferrer">Open MLflow</a>`
        : html`<p class="faint">MLflow: <code>make ui</code>, then <code>room.mlflow=http://127.0.0.1:5000</code> for a link</p>`}</div></header>
    <${Table} label="Set-ups and their metrics" columns=${[
      { name: "set-up" }, { name: "first run" },
      ...found.metrics.map((name) => ({ name: `${name}${name === found.select ? " ●" : ""}`, isNumber: true, title: BETTER[found.better[name]] ?? "neither is better" })),
    ]} lines=${found.setups.map((setup) => ({ key: setup.run, cells: [
      html`${setup.setup}<span class="faint"> · ${setup.num_runs} ${setup.num_runs === 1 ? "run" : "runs"}</span>`,
      html`<code>run:${setup.run.slice(0, 8)}</code>${isServed(setup) && html`<span class="faint"> · served now</span>`}`,
      ...found.metrics.map((name) => {
        const cell = setup.metrics[name];
        return {
          text: cell?.mean == null ? "–" : digits(cell.mean), class: cell?.leads && found.better[name] ? "is-best" : "",
          title: cell?.lower != null ? `${digits(cell.lower)} to ${digits(cell.upper)}` : "",
        };
      }),
    ] }))} />
    <p class="faint">● chooses the best set-up; bold: the best mean. To serve one: <code>python serve.py load store.folder=…/store recommendations=run:…</code></p>
    ${has && html`<div class="picture">${picture ? html`<img src=${picture} alt="each metric of each set-up, with its interval over runs, and the learning curves" />` : html`<${Bones} lines=${6} />`}</div>`}
    <p class="faint">Read from <code>${found.folder}</code>.</p>
  </section>`;
}
