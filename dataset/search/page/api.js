// The server's API. An error is thrown with its sentence.

/** Return the answer to a request; with a body it is a POST. `options` are those of fetch. */
export async function ask(path, body, options = {}) {
  if (body) {
    const headers = { ...options.headers, 'Content-Type': 'application/json' };
    options = { method: 'POST', body: JSON.stringify(body), ...options, headers };
  }
  const response = await fetch(path, options);
  const answer = await response.json().catch(() => ({ message: `The server answered ${response.status}.` }));
  if (response.ok) return answer;
  const wait = response.headers.get('Retry-After');
  throw new Error(answer.message + (wait ? ` (in ${wait} s)` : ''));
}

/** A picture in base64, made small first: the model looks at a few hundred pixels. */
export async function pictureTerm(blob) {
  const bitmap = await createImageBitmap(blob);
  const scale = Math.min(1, 512 / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement('canvas');
  Object.assign(canvas, { width: Math.max(1, bitmap.width * scale), height: Math.max(1, bitmap.height * scale) });
  canvas.getContext('2d').drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL('image/jpeg', 0.9);
}
