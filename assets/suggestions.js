// Runs once when the list of suggestions is on the page. `element` holds the list, `server.suggest` asks the
// library. The field is an ARIA combobox: what is typed is never changed unless a suggestion is picked.
const list = element.querySelector("[role=listbox]");
const field = list.dataset.for;
list.id = `${field}-suggestions`;
const status = element.querySelector("[role=status]");
let active = -1;
let asked = 0;
let timer;
let pending = false; // the names on show, if any, answer an older text
let held = []; // keys pressed meanwhile

const attach = () => {
  const input = document.querySelector(`#${field} input, #${field} textarea`);
  if (!input) return requestAnimationFrame(attach);

  const options = () => [...list.children];

  const close = () => {
    asked += 1; // an answer still under way comes too late
    clearTimeout(timer);
    pending = false;
    held = [];
    list.hidden = true;
    active = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };

  const mark = (index) => {
    active = index;
    options().forEach((option, i) => option.setAttribute("aria-selected", String(i === index)));
    if (index < 0) return input.removeAttribute("aria-activedescendant");
    input.setAttribute("aria-activedescendant", options()[index].id);
    options()[index].scrollIntoView({ block: "nearest" });
  };

  const pick = (name) => {
    input.value = name;
    input.dispatchEvent(new CustomEvent("input", { bubbles: true, detail: "picked" }));
    close();
  };

  const show = (names) => {
    list.replaceChildren(
      ...names.map((name, i) => {
        const option = document.createElement("li");
        option.id = `${field}-suggestion-${i}`;
        option.setAttribute("role", "option");
        option.textContent = name;
        option.addEventListener("pointerdown", (event) => event.preventDefault()); // keeps the focus in the field
        option.addEventListener("click", () => pick(name));
        return option;
      }),
    );
    list.hidden = names.length === 0;
    input.setAttribute("aria-expanded", String(names.length > 0));
    const say = document.querySelector("#browser-texts")?.dataset ?? {};
    list.setAttribute("aria-label", say.artists ?? "");
    status.textContent = names.length ? (say.choose ?? "") : "";
    mark(-1);
    pending = false;
    held.splice(0).forEach(act);
  };

  const act = (key) => {
    const count = options().length;
    if (key === "Enter" && active >= 0) return pick(options()[active].textContent);
    if (!count) return;
    if (key === "ArrowDown") mark(active + 1 < count ? active + 1 : -1);
    if (key === "ArrowUp") mark(active < 0 ? count - 1 : active - 1);
  };

  const ask = async (text) => {
    const number = ++asked;
    const names = text ? await server.suggest(text).catch(() => []) : [];
    if (number === asked && document.activeElement === input) show(names);
  };

  input.setAttribute("role", "combobox");
  input.setAttribute("aria-autocomplete", "list");
  input.setAttribute("aria-controls", list.id);
  input.setAttribute("aria-expanded", "false");
  input.setAttribute("autocomplete", "off");

  input.addEventListener("input", (event) => {
    clearTimeout(timer);
    if (event.detail === "picked") return;
    pending = true;
    held = [];
    timer = setTimeout(() => ask(input.value.trim()), 20);
  });
  input.addEventListener("blur", close);
  input.addEventListener(
    "keydown",
    (event) => {
      if (event.isComposing) {
        // Enter ends the composition of a word, and asks for nothing.
        if (event.key === "Enter") event.stopPropagation();
        return;
      }
      const arrow = event.key === "ArrowDown" || event.key === "ArrowUp";
      if (pending && (arrow || (event.key === "Enter" && held.length))) held.push(event.key);
      else if (!list.hidden && (arrow || (event.key === "Enter" && active >= 0))) act(event.key);
      else if (!list.hidden && event.key === "Escape") close();
      else {
        if (event.key === "Enter") close(); // whoever has asked wants no more suggestions
        return;
      }
      event.preventDefault();
      event.stopPropagation();
    },
    { capture: true },
  );
};
attach();
