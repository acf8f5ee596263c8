// What only the browser can do. Runs once, when the page is up; `window.erarec` is what app.py calls.
() => {
  const api = `${window.gradio_config.root}${window.gradio_config.api_prefix}`;
  const find = (selector) => document.querySelector(selector);

  // Music, not speech: a browser left to itself cleans a microphone for phone calls.
  const devices = navigator.mediaDevices;
  if (devices?.getUserMedia) {
    const getUserMedia = devices.getUserMedia.bind(devices);
    const music = { noiseSuppression: false, echoCancellation: false, autoGainControl: false };
    devices.getUserMedia = (asked = {}) =>
      getUserMedia(asked.audio ? { ...asked, audio: { ...(asked.audio === true ? {} : asked.audio), ...music } } : asked);
  }

  // Names and extensions that Gradio leaves out; it makes its elements anew now and then.
  const ACCEPTED = ".wav,.mp3,.flac,.ogg,.opus,.m4a,.aac,.webm,.aiff,.aif,.mp4";
  const amend = () => {
    document.querySelectorAll("#audio-input input[type=file]").forEach((input) => {
      if (input.accept !== ACCEPTED) input.accept = ACCEPTED;
    });
    document.querySelectorAll(".label-wrap").forEach((button) => {
      const open = String(button.classList.contains("open"));
      if (button.getAttribute("aria-expanded") !== open) button.setAttribute("aria-expanded", open);
    });
    document.querySelectorAll(".scale[data-place]").forEach(moveNeedle);
    document.querySelectorAll(".experiment .js-plotly-plot").forEach(moveCurves);
    // What changes by itself is read out.
    document.querySelectorAll("#answer, #needle, #biography-source").forEach((place) => {
      if (!place.hasAttribute("aria-live")) place.setAttribute("aria-live", "polite");
    });
    const language = find("#browser-texts")?.dataset.language;
    if (language && document.documentElement.lang !== language) document.documentElement.lang = language;
    const heard = find("#heard:not([src])");
    if (heard) heard.src = window.gradio_config.root + heard.dataset.file;
  };

  const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

  // The needle starts where the last one stood, and goes from there.
  let place = null;
  const moveNeedle = (scale) => {
    if (scale.dataset.moved) return;
    scale.dataset.moved = "yes";
    const needle = scale.querySelector(".needle");
    const target = needle.style.left;
    if (place !== null && place !== target && !still()) {
      needle.animate([{ left: place }, { left: target }], { duration: 600, easing: "ease-out" });
    }
    place = target;
  };

  // Curves start where the last answer's stood, or else from the first among them, and go from there.
  const stood = {}; // by the figure's id
  const moveCurves = (plot) => {
    if (plot.dataset.moved || !plot.data) return;
    plot.dataset.moved = "yes";
    const figure = plot.closest("[id]").id;
    const target = plot.data.map((curve) => curve.y);
    const from = target.map((_, i) => stood[figure]?.[i] ?? target[0]);
    stood[figure] = target;
    if (still()) return;
    const began = performance.now();
    const step = () => {
      if (!plot.isConnected) return; // another answer's is in its place
      const way = Math.min(1, (performance.now() - began) / 600);
      const part = 1 - (1 - way) ** 3;
      const y = target.map((to, i) => to.map((value, year) => from[i][year] + part * (value - from[i][year])));
      window.Plotly.restyle(plot, { y });
      if (way < 1) requestAnimationFrame(step);
    };
    step();
  };
  new MutationObserver(amend).observe(document.body, { childList: true, subtree: true, attributes: true, attributeFilter: ["class", "accept"] });
  amend();

  // A press on a stretch of the wave plays it from there.
  document.addEventListener("click", (event) => {
    const stretch = event.target.closest?.(".seconds button[data-start]");
    if (!stretch) return;
    const sound = find("#heard");
    if (!sound) return;
    const start = Number(stretch.dataset.start);
    const playing = stretch.classList.contains("playing");
    document.querySelectorAll(".seconds .playing").forEach((other) => other.classList.remove("playing"));
    if (playing) return sound.pause();
    sound.currentTime = start;
    sound.play().catch(() => stretch.classList.remove("playing")); // a format that this browser can't play
    stretch.classList.add("playing");
    sound.ontimeupdate = () => {
      const buttons = [...document.querySelectorAll(".seconds button[data-start]")];
      const now = buttons.filter((button) => Number(button.dataset.start) <= sound.currentTime + 0.05).pop();
      buttons.forEach((button) => button.classList.toggle("playing", button === now && !sound.paused));
    };
    sound.onpause = sound.onended = () =>
      document.querySelectorAll(".seconds .playing").forEach((other) => other.classList.remove("playing"));
  });

  // A decade of the map, off and on.
  document.addEventListener("click", (event) => {
    const toggle = event.target.closest?.("[data-decade]");
    const plot = find("#embedding-map .js-plotly-plot");
    const trace = plot?.data?.findIndex((one) => one.name === toggle?.textContent);
    if (!toggle || !(trace >= 0)) return;
    const shown = toggle.getAttribute("aria-pressed") === "false";
    toggle.setAttribute("aria-pressed", String(shown));
    window.Plotly.restyle(plot, { visible: shown }, [trace]);
  });

  // Guesses: a tally that stays in this browser.
  const TALLY = "erarec-tally";
  let counted = {}; // where the browser keeps nothing, as in a frame of another site
  const readTally = () => {
    try {
      return JSON.parse(localStorage.getItem(TALLY)) || {};
    } catch {
      return counted;
    }
  };
  const keepTally = (tally) => {
    counted = tally;
    try {
      localStorage.setItem(TALLY, JSON.stringify(tally));
    } catch {}
  };
  const showTally = () => {
    const tally = readTally();
    const line = find("#tally");
    const say = find("#browser-texts")?.dataset ?? {};
    const any = tally.you || tally.model;
    if (line) line.textContent = any ? `${say.you} ${tally.you || 0} : ${tally.model || 0} ${say.model}` : "";
  };
  const count = () => {
    const guess = find("#answer .guess[data-winner]");
    if (!guess || guess.dataset.counted) return;
    guess.dataset.counted = "yes";
    const winner = guess.dataset.winner;
    if (!winner) return;
    const tally = readTally();
    for (const who of winner === "both" ? ["you", "model"] : [winner]) tally[who] = (tally[who] || 0) + 1;
    keepTally(tally);
    showTally();
  };
  showTally();

  // A server that is gone, or another in its place: the page says so, and goes on by itself.
  const lost = Object.assign(document.createElement("p"), { id: "lost", hidden: true });
  lost.setAttribute("role", "alert");
  document.body.append(lost);
  setInterval(async () => {
    if (document.hidden) return;
    let answers = true;
    try {
      answers = (await fetch(`${api}/app_id`, { cache: "no-store", signal: AbortSignal.timeout(4000) })).ok;
    } catch {
      answers = false;
    }
    lost.textContent = answers ? "" : find("#browser-texts")?.dataset.lost;
    lost.hidden = answers;
  }, 5000);

  // What is saved: the numbers, a picture, a link.
  const answered = () => JSON.parse(find("#answer-data [data-answer]")?.dataset.answer || "null");

  const save = (content, name) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(content);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  const drawCard = ({ sentence, prediction }) => {
    const [width, height] = [1200, 630];
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const pen = canvas.getContext("2d");
    pen.fillStyle = "#fffaf5";
    pen.fillRect(0, 0, width, height);
    const colour = getComputedStyle(document.documentElement).getPropertyValue("--answer");
    pen.fillStyle = colour;
    pen.font = "bold 150px Charter, Georgia, serif";
    pen.fillText(String(prediction.year), 60, 180);
    pen.fillStyle = "#1c1917";
    pen.font = "36px Charter, Georgia, serif";
    pen.fillText(sentence, 64, 250, width - 128);
    if (prediction.artist.name) pen.fillText(prediction.artist.name, 460, 170, width - 524);
    const curve = prediction.probabilities.both;
    const shown = curve.map((_, i) => i).filter((i) => curve[i] > 0.0005);
    const [first, last] = [Math.max(0, shown[0] - 5), Math.min(curve.length - 1, shown[shown.length - 1] + 5)];
    const most = Math.max(...curve);
    const x = (i) => 60 + ((width - 120) * (i - first)) / (last - first);
    pen.beginPath();
    pen.moveTo(x(first), 540);
    for (let i = first; i <= last; i++) pen.lineTo(x(i), 540 - (230 * curve[i]) / most);
    pen.lineTo(x(last), 540);
    pen.fillStyle = colour;
    pen.globalAlpha = 0.25;
    pen.fill();
    pen.globalAlpha = 1;
    pen.strokeStyle = colour;
    pen.lineWidth = 4;
    pen.stroke();
    pen.fillStyle = "#57534e";
    pen.font = "26px sans-serif";
    pen.textAlign = "center";
    for (let i = first; i <= last; i++) {
      if (prediction.years[i] % 10 === 0) pen.fillText(prediction.years[i], x(i), 580, 90);
    }
    pen.textAlign = "right";
    pen.fillText("erarec", width - 60, 612);
    return new Promise((done) => canvas.toBlob(done, "image/png"));
  };

  document.addEventListener("click", async (event) => {
    const what = event.target.closest?.("[data-save]")?.dataset.save;
    const known = what && answered();
    if (!known) return;
    if (what === "json") {
      save(new Blob([JSON.stringify(known.prediction, null, 1)], { type: "application/json" }), "erarec.json");
    } else if (what === "card") {
      save(await drawCard(known), `erarec-${known.prediction.year}.png`);
    } else {
      const status = find("#share [data-copied]");
      status.textContent = "";
      // Without a secure connection there is no clipboard: the address itself can be copied.
      const copied = await navigator.clipboard?.writeText(location.href).then(() => true, () => false);
      status.textContent = copied ? status.dataset.copied : location.href;
    }
  });

  window.erarec = {
    // There is a button to stop with only while there is something to stop. Where another press waits for an answer
    // to end, Gradio says anew that it starts.
    ask(place, starts) {
      find(`#${place}`).toggleAttribute("data-asking", starts);
    },

    stopped(place) {
      this.ask(place, false);
      find(`#${place} :is(button.asks, .asks input)`).focus();
    },

    // An answer has come.
    answered() {
      document.querySelectorAll("[data-decade]").forEach((toggle) => toggle.setAttribute("aria-pressed", "true"));
      const save = find("#share .save");
      if (save) save.hidden = !answered();
      count();
      // On a phone the answer stands below the button, out of sight.
      // Once Stop has gone, and all below it has moved up.
      const behavior = still() ? "auto" : "smooth";
      if (innerWidth < 900) setTimeout(() => find("#answer").scrollIntoView({ behavior }), 100);
    },

    // Plotly draws at the wrong width what is drawn behind another tab.
    turnTo(tab) {
      this.remember({ tab: tab === "listen" ? "" : tab });
      setTimeout(() => dispatchEvent(new Event("resize")), 60);
    },

    // The address holds what is asked, so that a link brings it back.
    remember(changes) {
      const address = new URL(location);
      for (const [name, value] of Object.entries(changes)) {
        if (value) address.searchParams.set(name, value);
        else address.searchParams.delete(name);
      }
      history.replaceState(history.state, "", address);
    },
  };
}
