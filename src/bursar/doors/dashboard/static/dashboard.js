// The page as it is now, asked for again while it is looked at. Without this script every page works but this.
"use strict";

const SECONDS = 10;
const main = () => document.getElementById("main");
let live = true;

// Never under a reader's hands: not while something in the page is open, focused or selected.
function busy() {
  return (
    document.hidden ||
    main().querySelector("details[open]") !== null ||
    (main().contains(document.activeElement) && document.activeElement.id !== "live") ||
    String(document.getSelection()) !== ""
  );
}

async function refresh() {
  if (!live || busy()) return;
  const answer = await fetch(location.href, { credentials: "same-origin", cache: "no-store" });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("main");
  if (fresh === null || !live || busy()) return;
  const held = document.activeElement?.id === "live";
  const places = [...main().querySelectorAll(".scroll")].map((one) => one.scrollLeft);
  main().replaceChildren(...fresh.childNodes);
  main().querySelectorAll(".scroll").forEach((one, at) => (one.scrollLeft = places[at] ?? 0));
  offer();
  if (held) document.getElementById("live").focus();
}

// What can be switched off is shown only where it works.
function offer() {
  const button = document.getElementById("live");
  if (button === null) return;
  button.hidden = false;
  button.setAttribute("aria-pressed", String(live));
  button.addEventListener("click", () => {
    live = !live;
    button.setAttribute("aria-pressed", String(live));
  });
}

// A page that took long is asked for less often: a twentieth of the time at most.
async function watch() {
  const began = performance.now();
  await refresh().catch(() => undefined);
  setTimeout(watch, Math.max(SECONDS * 1000, 20 * (performance.now() - began)));
}

if (main().hasAttribute("data-live")) {
  offer();
  setTimeout(watch, SECONDS * 1000);
}
