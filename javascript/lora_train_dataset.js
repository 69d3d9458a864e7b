// The Dataset page: which dataset is shown, the state of its preparation, and what can be done with it as a whole.
(function () {
    "use strict";

    const POLL_MS = 1000, REMEMBERED = "lora-train-dataset";
    const view = {element: null, id: "", version: null, status: null, listed: false, started: "", filled: "", parts: {}};

    const lib = () => window.loraTrain;
    const grid = () => window.loraTrain.grid;
    const make = (...given) => lib().make(...given);

    function path(rest) {
        return "datasets/" + encodeURIComponent(view.id) + (rest || "");
    }

    function ask(rest, method, content) {
        return lib().ask(path(rest), method, content);
    }

    // requests for pictures cannot carry a header, so the page's token goes into their address
    function pictureUrl(key, what) {
        return lib().url(path("/pictures/" + encodeURIComponent(key) + "/" + what) + "?page=" + encodeURIComponent(lib().token())).href;
    }

    function button(name, parent, text, action) {
        const element = make("button", name, parent, text);
        element.type = "button";
        element.addEventListener("click", tried(action));
        return element;
    }

    // Errors are shown where the person looks, whatever was pressed.
    function tried(action) {
        return async (event) => {
            try {
                await action(event);
            } catch (error) {
                notify(error.message, true);
            }
        };
    }

    // an open card covers the page
    function notify(text, bad) {
        (lib().card.isOpen() ? lib().card.say : say)(text, bad);
    }

    function labelled(parent, text, element) {
        const label = make("label", "label", parent);
        make("span", "", label, text);
        label.appendChild(element);
        return element;
    }

    function build(element) {
        element.replaceChildren();
        const parts = {}, head = make("div", "head", element);
        parts.select = labelled(head, "Dataset", make("select", "select"));
        parts.select.id = "lora_train_dataset_select";
        parts.select.addEventListener("change", tried(() => choose(parts.select.value)));
        parts.state = make("span", "state", head);
        parts.train = button("button lora-train-primary", head, "Train on these", trainOnThese);
        parts.train.id = "lora_train_on_these";
        parts.bar = make("progress", "bar", element);
        parts.bar.setAttribute("aria-label", "Progress");
        parts.text = make("div", "text", element, " ");
        parts.text.setAttribute("role", "status");
        parts.advice = make("ul", "advice", element);
        parts.advice.setAttribute("role", "status");
        parts.notes = make("ul", "notes", element);
        parts.body = make("div", "body", element);
        Object.assign(view, {element, parts, version: null, status: null, listed: false});
        grid().build(parts.body);
        lib().captions.build(make("details", "captions", parts.body));
    }

    function choose(id) {
        Object.assign(view, {id, version: null, status: null});
        grid().reset();
        try {
            localStorage.setItem(REMEMBERED, id);
        } catch (error) { // a browser without storage
        }
        return tick();
    }

    function remembered() {
        try {
            return localStorage.getItem(REMEMBERED) || "";
        } catch (error) {
            return "";
        }
    }

    async function listDatasets() {
        const listed = (await lib().ask("datasets")).datasets, names = listed.map((one) => one.name);
        if (!view.id && listed.length) view.id = (listed.find((one) => one.id === remembered()) || listed[0]).id;
        view.parts.select.replaceChildren(...listed.map((one) => {
            const twice = names.filter((name) => name === one.name).length > 1;
            const option = make("option", "", null, twice ? one.folder : one.name);
            option.value = one.id;
            option.title = one.folder;
            return option;
        }));
        view.parts.select.value = view.id;
        view.listed = true;
    }

    function say(text, bad) {
        view.parts.text.textContent = text || " ";
        view.parts.text.classList.toggle("lora-train-error", Boolean(bad));
    }

    function showJob(status, before) {
        const parts = view.parts, job = status.job || {}, state = job.state || "prepared";
        parts.state.textContent = state;
        parts.state.dataset.state = {prepared: "finished"}[state] || state;
        parts.bar.hidden = !status.preparing;
        if (status.preparing) {
            if (job.total) Object.assign(parts.bar, {max: job.total, value: job.done});
            else parts.bar.removeAttribute("value");
            say(job.stage + " … " + job.done + (job.total ? " of " + job.total : ""));
        } else if (state === "failed") {
            say(lib().reasons(job.problems), true);
        } else if (!before || before.preparing) {
            say(state === "stopped" ? "Stopped; what is done is kept. Prepare continues from there." : "");
        }
    }

    function showStatus(status) {
        const parts = view.parts, before = view.status, counts = status.counts;
        view.status = status;
        showJob(status, before);
        parts.body.hidden = !counts;
        parts.train.disabled = !counts || !counts.kept;
        parts.train.textContent = counts ? "Train on these " + counts.kept : "Train on these";
        const notes = ((status.preparing ? status.job.notes : status.notes) || []).map(lib().worded);
        if (counts && counts.pending && !status.preparing) notes.push(counts.pending + " of your decisions have not been applied yet: press Prepare.");
        if (notes.join() !== [...parts.notes.children].map((note) => note.textContent).join()) {
            parts.notes.replaceChildren(...notes.map((note) => make("li", "", null, note)));
        }
        showAdvice(status, before);
        if (JSON.stringify(counts) !== JSON.stringify(before && before.counts)) grid().showChips();
    }

    // Where few pictures are left: which check to loosen, and a button that does it.
    function showAdvice(status, before) {
        const advice = (!status.preparing && status.advice) || [];
        view.parts.advice.hidden = !advice.length;
        if (before && JSON.stringify(before.advice) === JSON.stringify(status.advice) && before.preparing === status.preparing) return;
        view.parts.advice.replaceChildren(...advice.map((one) => {
            const line = make("li", "", null, one.text + " ");
            button("button", line, one.button, (event) => lib().again(event) || loosen(one.rule)).dataset.loosen = one.rule;
            return line;
        }));
    }

    async function loosen(rule) {
        try {
            await ask("/loosen", "POST", {rule});
            view.loosened = view.id;
        } catch (error) {
            say(error.message, true);
        }
        return tick();
    }

    function showNothing() {
        const parts = view.parts;
        parts.body.hidden = parts.bar.hidden = parts.advice.hidden = true;
        parts.train.disabled = true;
        say("Nothing has been prepared yet. Name a folder of pictures and press Prepare; each picture appears here with its outcome and the reason.");
    }

    function put(field, value) {
        field.value = value;
        field.dispatchEvent(new Event("input", {bubbles: true}));
    }

    function field(id) {
        const found = lib().root().querySelector("#" + id + " textarea, #" + id + " input");
        return found && found.offsetParent !== null ? found : null;
    }

    // Only the buttons that show a page: those on a page are inside its panel.
    function openPage(name) {
        const tabs = lib().root().querySelector("#lora_train_tabs");
        const onPage = (one) => {
            const panel = one.closest(".tabitem, [role=tabpanel]");
            return panel && panel !== tabs && tabs.contains(panel);
        };
        // newer gradios have each button twice, one of them only to measure it
        const found = [...tabs.querySelectorAll("button")].filter((one) => name.test(one.textContent.trim()) && !onPage(one) && !one.closest("[aria-hidden=true]"));
        (found.find((one) => one.getAttribute("role") === "tab") || found[0]).click();
    }

    // Fills the training form and starts nothing; gradio may build the form only when its page is shown.
    async function trainOnThese() {
        const status = view.status;
        // kohya's number of repeats is not part of a name
        const values = {lora_train_folder: status.pictures_folder, lora_train_tag: status.tag || "", lora_train_name: status.name.replace(/^\d+_(?=.)/, "")};
        openPage(/^Train( LoRA)?$/);
        for (let turns = 0; turns < 100; turns++) {
            if (Object.keys(values).every(field)) {
                for (const [id, value] of Object.entries(values)) put(field(id), value);
                return field("lora_train_folder").focus();
            }
            await new Promise((done) => setTimeout(done, 100));
        }
        say("The page Train could not be opened. The folder to train on is " + status.pictures_folder, true);
    }

    // The form shows how the dataset was prepared, so that Prepare does the same again. The server fills it: under newer
    // gradios, collapsed parts are not in the page.
    function fillForm(status) {
        const chosen = lib().root().querySelector("#lora_train_dataset_chosen textarea, #lora_train_dataset_chosen input");
        if (!status.options || !chosen || view.filled === status.id) return;
        view.filled = status.id;
        put(chosen, status.id + "?" + status.version);
    }

    // The form says which dataset it has started.
    function findStarted() {
        const message = lib().root().querySelector("#lora_train_dataset_message [data-dataset]");
        if (!message || message.dataset.started === view.started) return "";
        view.started = message.dataset.started;
        return view.filled = message.dataset.dataset;
    }

    async function tick() {
        const element = lib().root().querySelector("#lora_train_dataset");
        if (!element || element.offsetParent === null || !lib().grid || !lib().captions) return;
        if (element !== view.element) build(element);
        if (!view.listed) await listDatasets(); // asked again until there is an answer
        const started = findStarted();
        if (started && started !== view.id) return choose(started);
        if (!view.id) return showNothing();
        const wanted = view.id, status = await ask("");
        if (wanted !== view.id) return;
        showStatus(status);
        fillForm(status);
        if (status.version && status.version !== view.version) {
            view.version = status.version;
            if (view.loosened === view.id) Object.assign(view, {loosened: "", filled: ""}); // the form shows it, too
            await listDatasets();
            await grid().load();
            await lib().captions.refresh();
        }
    }

    function start() {
        if (!lib()) return setTimeout(start, 50);
        lib().dataset = {ask, pictureUrl, button, labelled, say, notify, tried, id: () => view.id, status: () => view.status, host: () => view.element};
        lib().keepDoing(tick, POLL_MS, (error) => view.element && say(error ? error.message : "", Boolean(error)));
    }

    start();
})();
