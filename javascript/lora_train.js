// The live view of a run: polls the REST routes with short requests, so that no connection stays open.
(function () {
    "use strict";

    const API = "lora-train/api/v1/";
    const POLL_MS = 1000, BANNER_POLL_MS = 3000, PATIENCE_MS = 60000;
    const view = {element: null, run: null, next: 0, steps: [], losses: [], smoothed: [], validations: new Map(), last: null, chart: null, parts: {}};
    const LOST = "Connection lost: the server does not answer. This page may be out of date; it keeps trying.";

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

    // Throws an Error for the person; `lost` is set where there is no answer.
    async function ask(path, method, content) {
        let answer, result;
        try {
            answer = await fetch(url(path), {
                method: method || "GET",
                headers: {"Content-Type": "application/json", "X-Lora-Train-Page": token()},
                body: method ? JSON.stringify(content || {}) : undefined,
                signal: !method && AbortSignal.timeout ? AbortSignal.timeout(PATIENCE_MS) : undefined,
            });
        } catch (error) {
            throw Object.assign(new Error(LOST), {lost: true});
        }
        try {
            result = await answer.json();
        } catch (error) { // a page of the server's, or of a proxy in between
            throw Object.assign(new Error("The server answered with an error (" + answer.status + ")."), {lost: answer.status >= 502 && answer.status <= 504});
        }
        if (!answer.ok) throw new Error(reasons(result.problems) || (typeof result.detail === "string" ? result.detail : "The server answered with an error (" + answer.status + ")."));
        return result;
    }

    function reasons(problems) {
        return (problems || []).map((p) => worded((p.what + " " + (p.fix || "")).trim())).join("\n");
    }

    // a message of the API names options by their paths; the page has labels for them
    function worded(text) {
        const element = root().querySelector("#lora_train_live"), labels = JSON.parse((element && element.dataset.labels) || "{}");
        return String(text).replace(/(^|[^\w./\\'"-])([a-z]+\.[a-z][a-z0-9_]*)(?![\w/\\'"-]|\.\w)/g, (all, before, path) => labels[path] ? before + "“" + labels[path] + "”" : all);
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
        element.addEventListener("click", (event) => again(event) || action());
        return element;
    }

    // The second click of a double click may meet a button that the first one has put there.
    function again(event) {
        return event.detail > 1;
    }

    function build(element) {
        element.replaceChildren();
        const parts = {};
        const head = make("div", "head", element);
        parts.title = make("b", "title", head, "No training yet");
        parts.state = make("span", "state", head);
        parts.stop = button(head, "lora_train_stop", "Stop and save", stop);
        parts.resume = button(head, "lora_train_resume", "Resume", resume);
        parts.copy = button(head, "lora_train_copy", "Copy for the prompt", () => copy([view.activation, snippet()].filter(Boolean).join(", ")));
        parts.send = button(head, "lora_train_send", "Send to txt2img", () => sendToPrompt(view.activation || "", snippet()));
        parts.bar = make("progress", "bar", element);
        parts.bar.max = 1;
        parts.bar.value = 0;
        parts.bar.setAttribute("aria-label", "Progress");
        parts.text = make("div", "text", element, " ");
        parts.text.setAttribute("role", "status");
        parts.chart = make("div", "chart", element);
        parts.samples = make("div", "samples", element);
        parts.log = make("ul", "log", element);
        parts.log.tabIndex = 0;
        parts.log.setAttribute("aria-label", "Log");
        parts.earlier = make("details", "earlier", element);
        window.loraTrain.runs.build(parts.earlier);
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
        view.validations = new Map();
        view.last = null;
        build(view.element);
    }

    async function stop() {
        view.parts.stop.disabled = true;
        view.parts.stop.textContent = "Stopping ...";
        try {
            await ask("runs/" + encodeURIComponent(view.run) + "/stop", "POST");
        } catch (error) {
            log(error.message, "error");
            view.parts.stop.disabled = false;
            view.parts.stop.textContent = "Stop and save";
        }
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

    // the trigger words, then the LoRA's tag; what the prompt already has stays as it is
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
        // only the log is scrolled, never the page, and only where its end is in view
        const list = view.parts.log, atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 8;
        make("li", kind, list, text);
        if (atEnd) list.scrollTop = list.scrollHeight;
    }

    // 0:07, 12:07, 1:12:07
    function clock(seconds) {
        const whole = Math.max(0, Math.round(seconds)), two = (number) => String(number).padStart(2, "0");
        const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
        return (hours ? hours + ":" + two(minutes) : minutes) + ":" + two(whole % 60);
    }

    // numbers that are not finite are null in JSON
    function number(value, digits) {
        return typeof value === "number" ? value.toFixed(digits) : "–";
    }

    const SHOW = {
        note: (event) => log(worded(event.text)),
        rejected: (event) => log("Left out " + event.file + ": " + event.reason + "."),
        choices: (event) => event.choices.forEach((c) => log(worded(c.field) + " = " + c.value + ": " + c.why)),
        saved: (event) => log("Saved after " + event.step + " steps: " + event.path),
        error: (event) => event.problems.forEach((p) => log(worded((p.where ? p.where + ": " : "") + p.what + " " + p.fix), "error")),
        prepare: (event) => { view.last = event; },
        step: (event) => {
            view.steps.push(event.step);
            view.losses.push(event.loss);
            view.smoothed.push(event.smoothed);
            view.last = event;
        },
        validation: (event) => {
            if (event.step) view.validations.set(event.step, event.loss); // of the base alone there is no step
            log("Validation loss after " + event.step + " steps: " + number(event.loss, 4) + (event.lowest ? ", the lowest so far" : ""));
        },
        resumed: (event) => {
            for (const step of [...view.validations.keys()]) if (step > event.step) view.validations.delete(step);
            const kept = view.steps.filter((step) => step <= event.step).length;
            view.steps.length = view.losses.length = view.smoothed.length = kept;
            view.last = null; // which was of before
            for (const figure of [...view.parts.samples.children]) {
                if (Number(figure.dataset.step) > event.step || !event.step) figure.remove();
            }
        },
        preview: (event) => {
            const figure = make("figure", "", view.parts.samples);
            figure.dataset.step = event.step;
            const image = make("img", "", figure);
            image.src = url("runs/" + encodeURIComponent(view.run) + "/samples/" + encodeURIComponent(event.file) + "?page=" + encodeURIComponent(token()));
            image.alt = event.prompt + ", after " + event.step + " steps";
            make("figcaption", "", figure, event.step + " steps");
        },
    };

    function showBar() {
        const event = view.last;
        if (!event) return;
        const [done, total] = event.kind === "prepare" ? [event.done, event.total] : [event.step, event.of];
        view.parts.bar.max = Math.max(1, total);
        view.parts.bar.value = done;
    }

    function over(run) {
        return ["finished", "stopped", "failed"].includes(run.state);
    }

    // The progress of a running run.
    function standing(run) {
        const event = view.last;
        if (over(run)) return "Nearly done: the memory is given back ...";
        // a preview picture of what the base makes may come first
        if (run.state === "training" && (!event || event.kind === "prepare")) return "Getting ready for the first step ...";
        if (!event) return " ";
        if (event.kind === "step" && run.state === "preparing") return "Getting ready ..."; // the step was before Resume
        if (event.kind === "prepare") return "Preparing " + (event.stage || "pictures") + ", " + event.done + " of " + event.total;
        if (event.kind === "step" && event.step >= event.of) return "All " + event.of + " steps are done · loss " + number(event.smoothed, 4) + " · saving ...";
        return "Step " + event.step + " of " + event.of + " · loss " + number(event.smoothed, 4) +
            " · " + number(event.pictures_per_second, 1) + " pictures/s" +
            (typeof event.seconds_left === "number" ? " · " + clock(event.seconds_left) + " left" : "");
    }

    // unchanged text is not read out again
    function say(text, bad) {
        if (view.parts.text.textContent !== text) view.parts.text.textContent = text;
        view.parts.text.classList.toggle("lora-train-error", Boolean(bad));
    }

    // How a run ended, the reason first; "" while it is running.
    function ending(run) {
        const again = run.can_resume ? " Resume continues from there." : "", afresh = run.can_resume ? " Resume starts it again." : "";
        const steps = run.steps_done ? " after " + run.steps_done + " steps" : "";
        if (run.state === "finished") return run.result ? "Finished" + steps + ". Use it in a prompt: <lora:" + run.name + ":1>" : "Finished; no training was asked for.";
        if (run.state === "stopped") return run.result ? "Stopped" + steps + "; the LoRA so far is saved: " + run.result + again : "Stopped before the first step; nothing is saved." + afresh;
        if (run.state === "failed") return "Failed: " + (reasons(run.problems) || "the log below says why.") + (run.has_state ? again.replace("there", "the last saved state") : afresh);
        if (run.state === "interrupted") return "Interrupted: its program ended." + (run.has_state ? again.replace("there", "the last saved state") : afresh);
        return "";
    }

    function drawChart() {
        if (typeof uPlot === "undefined" || view.steps.length < 2) return;
        const data = [view.steps, view.losses, view.smoothed, view.steps.map((step) => view.validations.get(step) ?? null)];
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
                    {label: "smoothed", stroke: "#e07b39", width: 2},
                    {label: "validation", stroke: "#2f9e6b", width: 2, spanGaps: true, points: {show: true, size: 6}}],
            }, data, view.parts.chart);
        } else {
            if (view.chart.width !== width) view.chart.setSize({width: width, height: 220});
            view.chart.setData(data);
        }
    }

    function showRun(run) {
        if (view.parts.state.textContent !== run.state) window.loraTrain.runs.refresh(view.parts.earlier);
        view.parts.title.textContent = run.name;
        view.parts.state.textContent = run.state;
        view.parts.state.dataset.state = run.state;
        view.parts.stop.hidden = !run.running || over(run);
        if (!run.running) {
            view.parts.stop.disabled = false;
            view.parts.stop.textContent = "Stop and save";
        }
        view.parts.resume.hidden = !run.can_resume;
        view.activation = run.activation;
        const usable = !run.running && Boolean(run.result);
        view.parts.copy.hidden = !usable;
        view.parts.send.hidden = !usable || !promptField();
        const ended = run.running ? "" : ending(run);
        say(ended || standing(run), ended && ["failed", "interrupted"].includes(run.state));
    }

    async function poll() {
        const latest = await ask("runs/latest");
        if (latest === null) return view.run !== null && reset({id: null}); // its folder is gone
        if (latest.id !== view.run) reset(latest);
        const answer = await ask("runs/" + encodeURIComponent(latest.id) + "/events?since=" + view.next);
        view.next = answer.next;
        for (const event of answer.events) {
            try {
                if (SHOW[event.kind]) SHOW[event.kind](event);
            } catch (error) { // one odd event is no reason to stop showing the others
                console.error("LoRA Train:", event, error);
            }
        }
        showBar();
        if (answer.events.length || !view.chart) drawChart();
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

    // `report` receives an error at its second time in a row, and null when all is well again
    async function keepDoing(action, pause, report) {
        let failures = 0;
        for (;;) {
            try {
                await action();
                if (failures && report) report(null);
                failures = 0;
            } catch (error) { // the server does not answer, or a login is missing; the next turn asks again
                failures += 1;
                if (failures > 1 && report) report(error);
            }
            await new Promise((done) => setTimeout(done, pause));
        }
    }

    function showTrouble(error) {
        if (!error || !view.parts.state) return; // the next turn shows the state
        if (error.lost) view.parts.state.textContent = "connection lost";
        view.parts.state.dataset.state = "interrupted";
        say(error.message, true);
        view.parts.stop.hidden = view.parts.resume.hidden = true;
    }

    async function tick() {
        const element = root().querySelector("#lora_train_live");
        if (element && element !== view.element) {
            if (!window.loraTrain.runs) return; // its script is still loading
            build(element);
            view.run = null;
        }
        if (element && element.offsetParent !== null) await poll();
    }

    // for the scripts of the other pages
    window.loraTrain = {root, url, token, ask, make, again, worded, keepDoing, reasons, log: (text, kind) => log(text, kind)};
    keepDoing(tick, POLL_MS, showTrouble);
    keepDoing(showBanner, BANNER_POLL_MS);
})();
