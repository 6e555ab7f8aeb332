// Show a pair, send the answer, show the next. Keys: 1 to 5, s skips, u takes back, f swaps the pictures.

const [said, pair, choices, left, right, difference] =
  ['said', 'pair', 'choices', 'left', 'right', 'difference'].map((id) => document.getElementById(id));
let shown = null;
let names = [];
let busy = true;

async function ask(path, body) {
  const options = body && { method: 'POST', body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' } };
  const response = await fetch(path, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.message);
  return answer;
}

async function show(state) {
  shown = state.shown;
  names = state.choices;
  said.textContent = `${state.done} of ${state.all}` + (shown ? '' : ': all pairs are answered');
  pair.hidden = !shown;
  if (!choices.children.length) {
    const all = [...names.map((name, at) => [name, at + 1]), ['skip', 's'], ['undo', 'u']];
    choices.append(...all.map(([name, key]) => {
      const button = document.createElement('button');
      button.textContent = `${key}  ${name}`;
      button.onclick = () => act(name);
      return button;
    }));
  }
  if (!shown) return;
  left.src = `/pictures/${shown.member}`;
  right.src = `/pictures/${shown.representative}`;
  await Promise.all([left.decode(), right.decode()]);
  draw();
}

function draw() {
  const pen = difference.getContext('2d', { willReadFrequently: true });
  const [a, b] = [left, right].map((image) => {
    pen.drawImage(image, 0, 0, 256, 256);
    return pen.getImageData(0, 0, 256, 256);
  });
  for (let at = 0; at < a.data.length; at += 1) {
    if (at % 4 < 3) a.data[at] = 3 * Math.abs(a.data[at] - b.data[at]);
  }
  pen.putImageData(a, 0, 0);
}

async function act(action) {
  if (busy || (!shown && action !== 'undo')) return;
  busy = true;
  try {
    await show(await ask('/api/answer', { action, member: shown?.member }));
  } catch (error) {
    said.textContent = error.message;
  }
  busy = false;
}

addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.key === 'f') [left.src, right.src] = [right.src, left.src];
  else if (event.key === 's') act('skip');
  else if (event.key === 'u') act('undo');
  else if (names[Number(event.key) - 1]) act(names[Number(event.key) - 1]);
});

try {
  await show(await ask('/api/state'));
} catch (error) {
  said.textContent = error.message;
}
busy = false;
