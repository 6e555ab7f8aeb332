// The basket as a file, and exports of everything by the server.

import { ask } from './api.js';

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

/** Let the server export everything, tell its progress, and offer the file, with the command that downloads its pictures. */
export async function exportAll(question, format, said) {
  let job = await ask('api/exports', { ...question, format });
  while (job.state === 'waiting' || job.state === 'running') {
    said.textContent = job.total ? `${job.rows.toLocaleString()} of ${job.total.toLocaleString()} rows` : 'Searching…';
    await new Promise((resolve) => setTimeout(resolve, 500));
    job = await ask(`api/exports/${job.id}`);
  }
  if (job.state !== 'done') throw new Error(job.message || `The export was ${job.state}.`);
  const link = document.createElement('a');
  link.href = `api/exports/${job.id}/file`;
  link.textContent = `export.${format}, ${job.rows.toLocaleString()} rows`;
  const command = document.createElement('code');
  command.textContent = `tracker seed export.${format} --url-col url --caption-col caption`;
  said.replaceChildren(link, '. Its pictures are downloaded by ', command);
}
