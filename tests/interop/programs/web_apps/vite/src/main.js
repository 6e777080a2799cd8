import "./style.css";
import picture from "./picture.svg?no-inline";
import { words } from "./words.js";

const routes = { "": () => import("./home.js"), about: () => import("./about.js") };
const base = new URL(document.baseURI).pathname;

async function show() {
  const name = location.pathname.slice(base.length);
  const { default: page } = await (routes[name] ?? routes[""])();
  document.querySelector("#app").replaceChildren(...page(picture));
  document.querySelector("#words").textContent = words;
  const data = await (await fetch("/data.json")).json();
  document.querySelector("#data").textContent = data.said;
}

addEventListener("click", (event) => {
  const link = event.target.closest("nav a");
  if (!link) return;
  event.preventDefault();
  history.pushState(null, "", link.getAttribute("href"));
  show();
});
addEventListener("popstate", show);
show();

if (import.meta.hot) {
  import.meta.hot.accept("./words.js", (fresh) => {
    document.querySelector("#words").textContent = fresh.words;
  });
}
