// The detail view of a result: the picture, all columns, and what can be done with it.

import { ask } from './api.js';
import { picture } from './grid.js';
import { state } from './state.js';

const dialog = document.querySelector('#detail');
const find = (name) => dialog.querySelector(name);
const said = find('#detail-said');
let current = null;

export async function showDetail(result, onAct) {
  current = result;
  const { id, row } = result;
  find('#detail-title').textContent = row.caption || `Row ${id}`;
  find('#detail-picture').replaceChildren(picture(row));
  find('#report').hidden = true;
  said.textContent = '';
  find('#trace').open = false;
  find('#traced').replaceChildren();
  dialog.onAct = onAct;
  fill(find('#columns'), { id, ...row });
  dialog.showModal();
  try {
    fill(find('#columns'), { id, ...(await ask(`api/rows/${id}${ofIndex()}`)).row });
  } catch (error) {
    said.textContent = error.message;
  }
}

const ofIndex = () => (state.index ? `?index=${encodeURIComponent(state.index)}` : '');

function fill(body, columns) {
  body.replaceChildren(...Object.entries(columns).map(([name, value]) => {
    const line = document.createElement('tr');
    const head = Object.assign(document.createElement('th'), { scope: 'row', textContent: name });
    const cell = document.createElement('td');
    const text = value === null ? '—' : typeof value === 'object' ? JSON.stringify(value) : String(value);
    const link = Object.assign(document.createElement('a'), { href: text, textContent: text, target: '_blank', rel: 'noreferrer' });
    cell.append(/^https?:\/\//i.test(text) ? link : text);
    line.append(head, cell);
    return line;
  }));
}

dialog.addEventListener('click', async (event) => {
  if (event.target === dialog) dialog.close();
  const { act } = event.target.dataset ?? {};
  if (act === 'similar' || act === 'caption') {
    dialog.close();
    dialog.onAct(act, current);
  } else if (act === 'copy') {
    await navigator.clipboard.writeText(String(current.id));
    said.textContent = `${current.id} is copied.`;
  } else if (act === 'report') {
    find('#report').hidden = false;
    find('#reason').focus();
  }
});

find('#trace').addEventListener('submit', async (event) => {
  event.preventDefault();
  try {
    const headers = { Authorization: `Bearer ${find('#token').value}` };
    fill(find('#traced'), await ask(`api/operator/trace/${current.id}${ofIndex()}`, null, { headers }));
  } catch (error) {
    said.textContent = error.message;
  }
});

find('#report').addEventListener('submit', async (event) => {
  event.preventDefault();
  const report = { index: state.index || undefined, id: current.id, reason: find('#reason').value, contact: find('#contact').value };
  try {
    const { request } = await ask('api/reports', report);
    said.textContent = `The request ${request} waits for a decision.`;
    find('#report').hidden = true;
  } catch (error) {
    said.textContent = error.message;
  }
});
