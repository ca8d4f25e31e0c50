// Runs: the set-ups of the last comparison side by side.
import { Bones, Notice, Table, Trouble, ask, html, labelOf, request, useAnswer, useEffect, useState } from "/room/parts.js";

const digits = (value) => (Math.abs(value) >= 1000 ? value.toFixed(0) : value.toPrecision(4).replace(/\.?0+$/, ""));

const BETTER = { max: "higher is better", min: "lower is better" };

export function Runs({ room, onRefresh }) {
  const [again, setAgain] = useState(0);
  const { answer, error } = useAnswer("runs", {}, { again });
  const [said, setSaid] = useState(null);
  const [picture, setPicture] = useState(null);
  const arms = room.players.filter((player) => player.is_arm);
  const [chosen, setArm] = useState("");
  const arm = arms.find((one) => one.key === chosen) ?? arms.at(-1);
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
  const serve = async (setup) => {
    const others = arms.filter((one) => one !== arm).map((one) => one.key);
    if (!confirm(`Serve ${setup.setup} (run ${setup.run.slice(0, 8)}) as ${arm.key}, in place of ${labelOf(arm)}?${others.length ? ` ${others.join(", ")} stay as they are. The experiment goes on: from now on ${arm.key} is another recommender.` : ""}`)) return;
    setSaid({ kind: "wait", text: `Loading ${setup.setup} …` });
    try {
      const { said: text } = await ask("serve", { method: "POST", body: { run: setup.run, arm: arm.key } });
      setSaid({ kind: "done", text });
      setTimeout(() => (setAgain(again + 1), onRefresh()), 2500);
    } catch (trouble) {
      setSaid({ kind: "error", text: trouble.message });
    }
  };
  const isServed = (setup) => answer.served.some((name) => name.startsWith("run:") && setup.run.startsWith(name.slice(4)));
  return html`<section class="view">
    <header class="subject"><div><p class="faint">The last comparison</p><h1>Runs side by side</h1><p>${found.verdict}</p>
      ${found.disagreement && html`<p class="warned">${found.disagreement}</p>`}</div>
      <div class="subject-links">${room.mlflow
        ? html`<a class="button" href=${room.mlflow} target="_blank" rel="noreferrer">Open MLflow</a>`
        : html`<p class="faint">MLflow: <code>make ui</code>, then <code>room.mlflow=http://127.0.0.1:5000</code> for a link</p>`}</div></header>
    ${said && html`<p class=${`said said-${said.kind}`} role="status">${said.text}</p>`}
    ${answer.may_serve && arms.length > 1 && html`<p><label>Serve in place of <select value=${arm.key} onChange=${(event) => setArm(event.currentTarget.value)}>
      ${arms.map((one) => html`<option key=${one.key} value=${one.key}>${one.key} ${labelOf(one)}</option>`)}</select></label></p>`}
    <${Table} label="Set-ups and their metrics" columns=${[
      { name: "set-up" }, { name: "serve", isHidden: true },
      ...found.metrics.map((name) => ({ name: `${name}${name === found.select ? " ●" : ""}`, isNumber: true, title: BETTER[found.better[name]] ?? "neither is better" })),
    ]} lines=${found.setups.map((setup) => ({ key: setup.run, cells: [
      html`${setup.setup}<span class="faint"> · ${setup.num_runs} ${setup.num_runs === 1 ? "run" : "runs"}</span>`,
      isServed(setup) ? html`<span class="faint">served now</span>` : html`<button class="button button-small" disabled=${!answer.may_serve} title=${answer.why_not} onClick=${() => serve(setup)}>Serve as ${arm.key}</button>`,
      ...found.metrics.map((name) => {
        const cell = setup.metrics[name];
        return {
          text: cell?.mean == null ? "–" : digits(cell.mean), class: cell?.leads && found.better[name] ? "is-best" : "",
          title: cell?.lower != null ? `${digits(cell.lower)} to ${digits(cell.upper)}` : "",
        };
      }),
    ] }))} />
    <p class="faint">● chooses the best set-up; bold: the best mean. ${answer.why_not && `To serve one: ${answer.why_not}.`}</p>
    ${has && html`<div class="picture">${picture ? html`<img src=${picture} alt="each metric of each set-up, with its interval over runs, and the learning curves" />` : html`<${Bones} lines=${6} />`}</div>`}
    <p class="faint">Read from <code>${found.folder}</code>.</p>
  </section>`;
}
