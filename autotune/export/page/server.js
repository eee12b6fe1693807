// Asks `autotune serve`: one request for each picture.

export const AT_ONCE = 4; // requests
export const WHERE = 'Pictures go to this server only, which does not keep them. <a href="docs">API</a>';

const TOP = 5; // labels per picture
const RETRIES = 60; // one second each, while the server is busy

let token = new URLSearchParams(location.hash.slice(1)).get("token") ?? sessionStorage.getItem("token") ?? "";
let limits = { bytes: Infinity };
if (location.hash) history.replaceState(null, "", location.pathname); // the address bar does not show the token

export class TokenNeeded extends Error {}

export function useToken(given) {
  token = given;
}

async function ask(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("The server cannot be reached, or this is no file.");
  }
  if (response.status === 401) throw new TokenNeeded(token ? "This is not the token." : "");
  return response;
}

// Returns study, labels, threshold and limits.
export async function describe() {
  const response = await ask("model");
  const model = await response.json();
  if (!response.ok) throw new Error(`${model.error} ${model.fix}`);
  sessionStorage.setItem("token", token);
  limits = model.limits;
  return model;
}

// Returns label, probability, top and milliseconds, or error.
export async function classify(file) {
  if (file.size > limits.bytes) return { error: `larger than ${Math.floor(limits.bytes / 1e6)} MB` };
  for (let tries = 0; ; tries += 1) {
    const form = new FormData();
    form.append("file", file);
    const response = await ask(`predict?top=${TOP}`, { method: "POST", body: form });
    if (response.status !== 429 || tries === RETRIES) {
      const found = await response.json();
      return found.predictions ? found.predictions[0] : { error: `${found.error} ${found.fix}` };
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}
