// The basket as a file, and exports by the server, with the commands that use them.

import { ask } from './api.js';
import { rowsOf } from './filters.js';

const cell = (value) => {
  const text = value === null || value === undefined ? '' : typeof value === 'object' ? JSON.stringify(value) : String(value);
  const plain = /^[=+\-@\t\r]/.test(text) && typeof value === 'string' ? `'${text}` : text; // no formula in a spreadsheet
  return /[",\n\r]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
};

export function saveBasket(results, kind) {
  const rows = results.map(({ id, similarity, row }) => ({ id, similarity_to_query: similarity, ...row }));
  const names = [...new Set(rows.flatMap(Object.keys))];
  const text = {
    json: () => JSON.stringify(rows, null, 1),
    jsonl: () => rows.map((row) => `${JSON.stringify(row)}\n`).join(''),
    csv: () => [names, ...rows.map((row) => names.map((name) => row[name]))].map((line) => `${line.map(cell).join(',')}\r\n`).join(''),
  }[kind]();
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], { type: 'text/plain' }));
  link.download = `basket.${kind}`;
  link.click();
  URL.revokeObjectURL(link.href);
}

const dialog = document.querySelector('#export');
const said = dialog.querySelector('#export-said');
const commands = dialog.querySelector('#export-commands');
let running = null; // the id of an export that is not there yet

/** Let the server export what was asked for, tell its progress, and offer the file and commands. */
export async function exportAs(asked, format) {
  commands.replaceChildren();
  said.textContent = 'Searching…';
  dialog.showModal();
  try {
    let job = await ask('api/exports', { ...asked, format });
    running = job.id;
    while (job.state === 'waiting' || job.state === 'running') {
      if (job.total) said.textContent = `${job.rows.toLocaleString()} of ${job.total.toLocaleString()} rows`;
      await new Promise((resolve) => setTimeout(resolve, 200));
      job = await ask(`api/exports/${job.id}`);
    }
    if (job.id !== running) return;
    if (job.state !== 'done') throw new Error(job.message || `The export was ${job.state}.`);
    running = null;
    offer(job, format);
  } catch (error) {
    said.textContent = error.message;
  }
}

function offer(job, format) {
  const name = `export.${format}`;
  const link = Object.assign(document.createElement('a'), { href: `api/exports/${job.id}/file`, textContent: name });
  said.replaceChildren(link, `, ${rowsOf(job.rows)}; it is kept for a day.`);
  show('The file, in a terminal', `curl --fail --output ${name} '${link.href}'`);
  show('Its pictures, by Shoal', `tracker seed ${name} --url-col url --caption-col caption`);
  show('Its pictures, by img2dataset', `img2dataset --url_list ${name} --input_format ${format} --url_col url`
    + ' --caption_col caption --output_folder pictures --output_format webdataset');
}

function show(words, command) {
  const term = Object.assign(document.createElement('dt'), { textContent: words });
  const line = document.createElement('dd');
  line.append(Object.assign(document.createElement('code'), { textContent: command }));
  const button = Object.assign(document.createElement('button'), { type: 'button', textContent: 'Copy' });
  button.setAttribute('aria-label', `Copy: ${words}`);
  button.onclick = () => navigator.clipboard.writeText(command);
  const copy = document.createElement('dd');
  copy.append(button);
  commands.append(term, line, copy);
}

dialog.addEventListener('close', () => {
  if (running) ask(`api/exports/${running}`, null, { method: 'DELETE' }).catch(() => {});
  running = null;
});
