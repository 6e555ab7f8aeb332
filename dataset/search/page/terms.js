// The terms of the query as chips: each can be turned from + to −, and removed.

import { state } from './state.js';

const WORDS = { text: (value) => value, url: (value) => value, id: (value) => `row ${value}`, picture: () => 'a picture' };
const list = document.querySelector('#terms');

/** Show the terms; `changed` is called when somebody has changed one. */
export function showTerms(changed) {
  document.querySelector('#add').hidden = !state.terms.length;
  list.replaceChildren(...state.terms.map((term, at) => {
    const chip = document.createElement('li');
    chip.classList.toggle('minus', term.weight < 0);
    const name = Object.assign(document.createElement('span'), { textContent: WORDS[term.kind](term.value) });
    name.title = name.textContent;
    const turn = Object.assign(document.createElement('button'), { type: 'button', textContent: term.weight < 0 ? '−' : '+' });
    turn.setAttribute('aria-label', `${term.weight < 0 ? 'Add' : 'Take away'} ${name.textContent}`);
    turn.onclick = () => {
      term.weight = -term.weight;
      changed();
    };
    const drop = Object.assign(document.createElement('button'), { type: 'button', textContent: '✕' });
    drop.setAttribute('aria-label', `Remove ${name.textContent}`);
    drop.onclick = () => {
      state.terms.splice(at, 1);
      changed();
    };
    chip.append(turn, name, drop);
    return chip;
  }));
}
