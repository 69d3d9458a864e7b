// The live view of a run: follows the REST routes with short requests, so that nothing stays open.
(function () {
    "use strict";

    const API = "lora-train/api/v1/";
    const POLL_MS = 1000;
    const view = {element: null, run: null, next: 0, steps: [], losses: [], smoothed: [], chart: null, parts: {}};

    function url(path) {
        return new URL(API + path, document.baseURI);
    }

    function make(tag, name, parent, text) {
        const element = document.createElement(tag);
        if (name) element.className = "lora-train-" + name;
        if (text !== undefined) element.textContent = text;
        if (parent) parent.appendChild(element);
        return element;
    }

    function build(element) {
        element.replaceChildren();
        const parts = {};
        const head = make("div", "head", element);
        parts.title = make("b", "title", head, "No training yet");
        parts.state = make("span", "state", head);
        parts.stop = make("button", "stop", head, "Stop and save");
        parts.stop.type = "button";
        parts.stop.id = "lora_train_stop";
        parts.stop.hidden = true;
        parts.stop.addEventListener("click", stop);
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
        await fetch(url("runs/" + encodeURIComponent(view.run) + "/stop"), {
            method: "POST",
            headers: {"Content-Type": "application/json"},
            body: "{}",
        });
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
        prepare: (event) => progress(event.done, event.total, "Preparing " + event.done + " of " + event.total),
        step: (event) => {
            view.steps.push(event.step);
            view.losses.push(event.loss);
            view.smoothed.push(event.smoothed);
            view.last = event;
        },
        preview: (event) => {
            const figure = make("figure", "", view.parts.samples);
            const image = make("img", "", figure);
            image.src = url("runs/" + encodeURIComponent(view.run) + "/samples/" + encodeURIComponent(event.file));
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
        const lost = !run.running && (run.state === "training" || run.state === "preparing");
        view.parts.state.textContent = lost ? "interrupted" : run.state;
        view.parts.state.dataset.state = lost ? "interrupted" : run.state;
        view.parts.stop.hidden = !run.running;
        if (run.state === "finished" && run.result) {
            view.parts.text.textContent = "Finished. Use it in a prompt: <lora:" + run.name + ":1>";
        } else if (run.state === "stopped") {
            view.parts.text.textContent = run.result ? "Stopped; the LoRA so far is saved: " + run.result : "Stopped before the first step.";
        }
    }

    async function poll() {
        const latest = await (await fetch(url("runs/latest"))).json();
        if (latest === null) return;
        if (latest.id !== view.run) reset(latest);
        const path = "runs/" + encodeURIComponent(latest.id) + "/events?since=" + view.next;
        const answer = await (await fetch(url(path))).json();
        view.next = answer.next;
        view.last = null;
        answer.events.forEach((event) => SHOW[event.kind] && SHOW[event.kind](event));
        showStep();
        showRun(answer.run);
    }

    async function tick() {
        try {
            const root = typeof gradioApp === "function" ? gradioApp() : document;
            const element = root.querySelector("#lora_train_live");
            if (element && element !== view.element) {
                build(element);
                view.run = null;
            }
            if (element && element.offsetParent !== null) await poll();
        } catch (error) {
            // the server is away for a moment; the next tick asks again
        } finally {
            setTimeout(tick, POLL_MS);
        }
    }

    tick();
})();
