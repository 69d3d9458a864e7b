// The live view of a run: follows the REST routes with short requests, so that nothing stays open.
(function () {
    "use strict";

    const API = "lora-train/api/v1/";
    const POLL_MS = 1000, BANNER_POLL_MS = 3000;
    const view = {element: null, run: null, next: 0, steps: [], losses: [], smoothed: [], chart: null, parts: {}};

    function root() {
        return typeof gradioApp === "function" ? gradioApp() : document;
    }

    function url(path) {
        return new URL(API + path, document.baseURI);
    }

    // the page's own token: the WebUI's login does not cover an extension's routes
    function token() {
        const element = root().querySelector("#lora_train_live, #lora_train_dataset");
        return (element && element.dataset.page) || "";
    }

    async function ask(path, method, content) {
        const answer = await fetch(url(path), {
            method: method || "GET",
            headers: {"Content-Type": "application/json", "X-Lora-Train-Page": token()},
            body: method ? JSON.stringify(content || {}) : undefined,
        });
        const told = await answer.json();
        if (!answer.ok) throw new Error((told.problems || [{what: told.detail || answer.status}]).map((p) => p.what + " " + (p.fix || "")).join("\n"));
        return told;
    }

    function make(tag, name, parent, text) {
        const element = document.createElement(tag);
        if (name) element.className = "lora-train-" + name;
        if (text !== undefined) element.textContent = text;
        if (parent) parent.appendChild(element);
        return element;
    }

    function button(parent, id, text, action) {
        const element = make("button", "button", parent, text);
        element.type = "button";
        element.id = id;
        element.hidden = true;
        element.addEventListener("click", action);
        return element;
    }

    function build(element) {
        element.replaceChildren();
        const parts = {};
        const head = make("div", "head", element);
        parts.title = make("b", "title", head, "No training yet");
        parts.state = make("span", "state", head);
        parts.stop = button(head, "lora_train_stop", "Stop and save", stop);
        parts.resume = button(head, "lora_train_resume", "Resume", resume);
        parts.copy = button(head, "lora_train_copy", "Copy for the prompt", () => copy(snippet()));
        parts.send = button(head, "lora_train_send", "Send to txt2img", () => sendToPrompt(view.activation || "", snippet()));
        parts.bar = make("progress", "bar", element);
        parts.bar.max = 1;
        parts.bar.value = 0;
        parts.bar.setAttribute("aria-label", "Progress");
        parts.text = make("div", "text", element, " ");
        parts.chart = make("div", "chart", element);
        parts.samples = make("div", "samples", element);
        parts.log = make("ul", "log", element);
        view.parts = parts;
        view.element = element;
        view.chart = null;
    }

    function reset(run) {
        view.run = run.id;
        view.next = 0;
        view.steps = [];
        view.losses = [];
        view.smoothed = [];
        build(view.element);
    }

    async function stop() {
        view.parts.stop.disabled = true;
        view.parts.stop.textContent = "Stopping ...";
        await ask("runs/" + encodeURIComponent(view.run) + "/stop", "POST");
    }

    async function resume() {
        view.parts.resume.disabled = true;
        try {
            await ask("runs/" + encodeURIComponent(view.run) + "/resume", "POST");
        } catch (error) {
            log(error.message, "error");
        } finally {
            view.parts.resume.disabled = false;
        }
    }

    function snippet() {
        return "<lora:" + view.parts.title.textContent + ":1>";
    }

    async function copy(text) {
        try {
            await navigator.clipboard.writeText(text);
            view.parts.copy.textContent = "Copied";
        } catch (error) { // no clipboard on pages without https
            log("Copy this: " + text);
        }
    }

    function promptField() {
        return root().querySelector("#txt2img_prompt textarea");
    }

    // the words that call the subject, then the LoRA's tag; what the prompt has already stays as it is
    function sendToPrompt(words, tag) {
        const field = promptField();
        const plain = field.value.replace(/<[^>]*>/g, " ");
        const word = new RegExp("(^|[^\\p{L}\\p{N}_])" + words.replace(/[.*+?^${}()|[\]\\]/g, "\\$&") + "($|[^\\p{L}\\p{N}_])", "u");
        const parts = [field.value.trim()];
        if (words && !word.test(plain)) parts.push(words);
        if (!field.value.includes(tag.slice(0, tag.lastIndexOf(":") + 1))) parts.push(tag);
        field.value = parts.filter(Boolean).join(" ");
        field.dispatchEvent(new Event("input", {bubbles: true}));
        if (typeof switch_to_txt2img === "function") switch_to_txt2img();
    }

    function log(text, kind) {
        const line = make("li", kind, view.parts.log, text);
        line.scrollIntoView({block: "nearest", inline: "nearest"});
    }

    function minutes(seconds) {
        const whole = Math.max(0, Math.round(seconds));
        return Math.floor(whole / 60) + ":" + String(whole % 60).padStart(2, "0");
    }

    const SHOW = {
        note: (event) => log(event.text),
        rejected: (event) => log("Left out " + event.file + ": " + event.reason + "."),
        choices: (event) => event.choices.forEach((c) => log(c.field + " = " + c.value + ": " + c.why)),
        saved: (event) => log("Saved after " + event.step + " steps: " + event.path),
        error: (event) => event.problems.forEach((p) => log((p.where ? p.where + ": " : "") + p.what + " " + p.fix, "error")),
        prepare: (event) => progress(event.done, event.total, "Preparing " + (event.stage || "pictures") + ", " + event.done + " of " + event.total),
        step: (event) => {
            view.steps.push(event.step);
            view.losses.push(event.loss);
            view.smoothed.push(event.smoothed);
            view.last = event;
        },
        resumed: (event) => {
            const kept = view.steps.filter((step) => step <= event.step).length;
            view.steps.length = view.losses.length = view.smoothed.length = kept;
        },
        preview: (event) => {
            const figure = make("figure", "", view.parts.samples);
            const image = make("img", "", figure);
            image.src = url("runs/" + encodeURIComponent(view.run) + "/samples/" + encodeURIComponent(event.file) + "?page=" + encodeURIComponent(token()));
            image.alt = event.prompt + ", after " + event.step + " steps";
            make("figcaption", "", figure, event.step + " steps");
        },
    };

    function progress(done, total, text) {
        view.parts.bar.max = Math.max(1, total);
        view.parts.bar.value = done;
        view.parts.text.textContent = text;
    }

    function showStep() {
        const event = view.last;
        if (!event) return;
        progress(event.step, event.of,
            "Step " + event.step + " of " + event.of + " · loss " + event.smoothed.toFixed(4) +
            " · " + event.pictures_per_second.toFixed(1) + " pictures/s · " + minutes(event.seconds_left) + " left");
        drawChart();
    }

    function drawChart() {
        if (typeof uPlot === "undefined" || view.steps.length < 2) return;
        const data = [view.steps, view.losses, view.smoothed];
        const width = Math.max(200, view.parts.chart.clientWidth);
        if (view.chart === null) {
            const ink = getComputedStyle(view.element).color;
            const axis = {stroke: ink, grid: {stroke: "rgba(128,128,128,0.25)"}, ticks: {stroke: "rgba(128,128,128,0.25)"}};
            view.chart = new uPlot({
                width: width,
                height: 220,
                scales: {x: {time: false}},
                axes: [axis, axis],
                series: [{label: "step"},
                    {label: "loss", stroke: "rgba(120,150,220,0.45)", width: 1},
                    {label: "smoothed", stroke: "#e07b39", width: 2}],
            }, data, view.parts.chart);
        } else {
            if (view.chart.width !== width) view.chart.setSize({width: width, height: 220});
            view.chart.setData(data);
        }
    }

    function showRun(run) {
        view.parts.title.textContent = run.name;
        view.parts.state.textContent = run.state;
        view.parts.state.dataset.state = run.state;
        view.parts.stop.hidden = !run.running;
        if (!run.running) {
            view.parts.stop.disabled = false;
            view.parts.stop.textContent = "Stop and save";
        }
        view.parts.resume.hidden = !run.can_resume;
        view.activation = run.activation;
        const usable = !run.running && Boolean(run.result);
        view.parts.copy.hidden = !usable;
        view.parts.send.hidden = !usable || !promptField();
        if (run.state === "finished" && run.result) {
            view.parts.text.textContent = "Finished. Use it in a prompt: <lora:" + run.name + ":1>";
        } else if (run.state === "stopped") {
            view.parts.text.textContent = run.result ? "Stopped; the LoRA so far is saved: " + run.result : "Stopped before the first step.";
        } else if (run.state === "interrupted") {
            view.parts.text.textContent = run.can_resume ? "Interrupted: its program ended. Resume goes on from the last saved state." : "Interrupted before a state was saved; start it again.";
        }
    }

    async function poll() {
        const latest = await ask("runs/latest");
        if (latest === null) return;
        if (latest.id !== view.run) reset(latest);
        const answer = await ask("runs/" + encodeURIComponent(latest.id) + "/events?since=" + view.next);
        view.next = answer.next;
        view.last = null;
        answer.events.forEach((event) => SHOW[event.kind] && SHOW[event.kind](event));
        showStep();
        showRun(answer.run);
        showInWebui(answer.run);
    }

    // The WebUI's own progress bar and page title
    function showInWebui(run) {
        if (typeof requestProgress !== "function" || !run.running || view.inWebui === run.id) return;
        view.inWebui = run.id;
        requestProgress("task(lora_train-" + run.id + ")", view.parts.bar, null, () => {
            view.inWebui = null;
        }, null, 600);
    }

    // In the WebUI's other tabs: why a picture waits
    async function showBanner() {
        const field = promptField();
        if (!field || !root().querySelector("#lora_train_live")) return;
        const run = await ask("runs/latest");
        document.dispatchEvent(new CustomEvent("lora-train-run", {detail: run}));
        let banner = root().querySelector("#lora_train_banner");
        if (!run || !run.running) {
            if (banner) banner.remove();
            return;
        }
        if (!banner) {
            banner = make("div", "banner", null);
            banner.id = "lora_train_banner";
            banner.setAttribute("role", "status");
            const tabs = root().querySelector("#tabs") || document.body;
            tabs.parentNode.insertBefore(banner, tabs);
        }
        banner.textContent = "The LoRA " + run.name + " is being trained. Pictures wait until it ends or is stopped (tab Train LoRA).";
    }

    async function keepDoing(action, pause) {
        for (;;) {
            try {
                await action();
            } catch (error) {
                // the server is away for a moment, or a login is missing; the next turn asks again
            }
            await new Promise((done) => setTimeout(done, pause));
        }
    }

    async function tick() {
        const element = root().querySelector("#lora_train_live");
        if (element && element !== view.element) {
            build(element);
            view.run = null;
        }
        if (element && element.offsetParent !== null) await poll();
    }

    // for the scripts of the other pages
    window.loraTrain = {root, url, token, ask, make, keepDoing};
    keepDoing(tick, POLL_MS);
    keepDoing(showBanner, BANNER_POLL_MS);
})();
