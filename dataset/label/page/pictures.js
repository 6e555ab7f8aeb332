// Show a picture, send the answer, show the next. The server decides who is shown what.

const part = (id) => document.getElementById(id);
const picture = part('picture');
const modes = { blur: false, grey: false };
let names = [];
let who = null;
let shown = null;
let busy = false;
let covered = false;

async function ask(path, body) {
  const options = body && { method: 'POST', body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' } };
  const response = await fetch(path, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.message);
  return answer;
}

function element(kind, text, parts = []) {
  const made = document.createElement(kind);
  made.textContent = text;
  made.append(...parts);
  return made;
}

function drawModes() {
  picture.className = `${modes.blur && covered ? 'blurred' : ''} ${modes.grey ? 'grey' : ''}`;
  part('examples').className = `${modes.blur ? 'blurred' : ''} ${modes.grey ? 'grey' : ''}`;
  part('blur').setAttribute('aria-pressed', modes.blur);
  part('grey').setAttribute('aria-pressed', modes.grey);
  part('uncover').hidden = !modes.blur;
  part('uncover').lastChild.textContent = covered ? ' Uncover' : ' Cover';
}

function toggle(mode) {
  modes[mode] = !modes[mode];
  if (mode === 'blur') covered = modes.blur;
  drawModes();
}

function uncover() {
  covered = modes.blur && !covered;
  drawModes();
}

async function show(state) {
  shown = state.shown;
  const done = `${state.done} done, ${state.left} left`;
  const end = who.adjudicate ? 'nothing to decide' : 'all pictures are labelled';
  part('said').textContent = shown ? done : `${state.done} done: ${end}`;
  part('break').hidden = !state.break;
  part('break').textContent = 'You have worked for a while. Take a break of five minutes: what you have done is stored.';
  part('disagreement').hidden = !shown?.answers.length;
  part('disagreement').textContent = shown ? `The answers were: ${shown.answers.join(', ')}.` : '';
  for (const button of part('choices').children) button.disabled = !shown;
  for (const id of ['skip', 'report']) part(id).disabled = !shown;
  covered = modes.blur;
  picture.hidden = true;  // the one before is never seen with the next one's covering
  drawModes();
  if (!shown) return;
  picture.src = `/pictures/${shown.item}`;
  await picture.decode().catch(() => {});
  picture.hidden = false;
  for (const id of state.preload) new Image().src = `/pictures/${id}`;
}

async function act(action, label) {
  if (busy || !who || (!shown && action !== 'undo')) return;
  busy = true;
  try {
    await show(await ask('/api/answer', { ...who, action, item: shown?.item, label }));
    if (action === 'report') part('said').textContent += '. The picture was reported, and will not be shown again';
  } catch (error) {
    part('said').textContent = error.message;
  }
  busy = false;
}

async function begin() {
  try {
    const query = new URLSearchParams({ annotator: who.annotator, adjudicate: who.adjudicate });
    const state = await ask(`/api/state?${query}`);
    part('start').hidden = true;
    part('work').hidden = false;
    part('guide').hidden = false;
    sessionStorage.setItem('who', JSON.stringify(who));
    await show(state);
  } catch (error) {
    part('start').hidden = false;
    part('said').textContent = error.message;
    who = null;
  }
}

function draw(task) {
  document.title = `Label: ${task.name}`;
  part('title').textContent = task.name;
  part('version').textContent = `version ${task.guideline_version}`;
  part('guideline').textContent = task.guideline;
  names = task.classes.map((one) => one.name);
  part('choices').append(...task.classes.map((one, at) => {
    const button = element('button', '', [element('kbd', at + 1), one.name, element('small', one.meaning)]);
    button.onclick = () => act('label', one.name);
    return button;
  }));
  part('examples').append(...task.classes.filter((one) => one.examples.length).map((one) => {
    const images = one.examples.map((id) => Object.assign(new Image(), { src: `/pictures/${id}`, alt: `Example of ${one.name}` }));
    return element('figure', '', [element('figcaption', one.name), element('div', '', images)]);
  }));
  modes.blur = task.blur;
  drawModes();
}

const keys = {
  u: () => act('undo'), s: () => act('skip'), x: () => act('report'),
  b: () => toggle('blur'), g: () => toggle('grey'), c: uncover,
};

addEventListener('keydown', (event) => {
  if (!who || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const name = names[Number(event.key) - 1];
  if (name) act('label', name);
  else if (keys[event.key]) keys[event.key]();
  else return;
  event.preventDefault();
});

for (const [id, key] of [['undo', 'u'], ['skip', 's'], ['report', 'x'], ['blur', 'b'], ['grey', 'g'], ['uncover', 'c']]) {
  part(id).onclick = keys[key];
}

part('start').onsubmit = (event) => {
  event.preventDefault();
  who = { annotator: part('annotator').value, adjudicate: part('adjudicate').checked };
  begin();
};

try {
  draw(await ask('/api/task'));
  who = JSON.parse(sessionStorage.getItem('who'));
  if (who) await begin();
  else {
    part('start').hidden = false;
    part('annotator').focus();
  }
} catch (error) {
  part('said').textContent = error.message;
}
