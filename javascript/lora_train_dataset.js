// The Dataset page: the pictures of a prepared folder with outcome and reason, a page of them at a time.
(function () {
    "use strict";

    const PER_PAGE = 60, POLL_MS = 1000, REMEMBERED = "lora-train-dataset";
    const NONE = {outcome: "", rule: "", text: "", tag: ""};
    const view = {element: null, id: "", version: null, filter: NONE, start: 0, total: 0, pictures: [], cards: new Map(), selected: "", status: null, started: "", parts: {}};

    const lib = () => window.loraTrain;
    const make = (...given) => lib().make(...given);

    function path(rest) {
        return "datasets/" + encodeURIComponent(view.id) + (rest || "");
    }

    function ask(rest, method, content) {
        return lib().ask(path(rest), method, content);
    }

    // pictures cannot carry a header, so the page's token goes into their address
    function pictureUrl(key, what) {
        return lib().url(path("/pictures/" + encodeURIComponent(key) + "/" + what) + "?page=" + encodeURIComponent(lib().token())).href;
    }

    function button(name, parent, text, action) {
        const element = make("button", name, parent, text);
        element.type = "button";
        element.addEventListener("click", action);
        return element;
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
        parts.select.addEventListener("change", () => choose(parts.select.value));
        parts.state = make("span", "state", head);
        parts.train = button("button lora-train-primary", head, "Train on these", trainOnThese);
        parts.train.id = "lora_train_on_these";
        parts.bar = make("progress", "bar", element);
        parts.bar.setAttribute("aria-label", "Progress");
        parts.text = make("div", "text", element, " ");
        parts.text.setAttribute("role", "status");
        parts.notes = make("ul", "notes", element);
        parts.body = make("div", "body", element);
        parts.chips = make("div", "chips", parts.body);
        parts.chips.setAttribute("role", "group");
        parts.chips.setAttribute("aria-label", "Which pictures are shown");
        const tools = make("div", "tools", parts.body);
        parts.search = labelled(tools, "File name", make("input", "input"));
        parts.search.type = "search";
        parts.search.id = "lora_train_dataset_search";
        parts.search.addEventListener("input", () => filter({text: parts.search.value}));
        parts.tag = button("chip", tools, "", () => filter({tag: ""}));
        make("span", "hint", tools, "Arrows move, k keeps, r leaves out, u undoes that, Enter opens");
        parts.grid = make("ul", "grid", parts.body);
        parts.grid.id = "lora_train_grid";
        parts.grid.setAttribute("aria-label", "Pictures");
        parts.grid.addEventListener("keydown", onKey);
        parts.grid.addEventListener("focusin", (event) => {
            const card = event.target.closest("li");
            if (card) select(card.dataset.key, false);
        });
        const pager = make("nav", "pager", parts.body);
        pager.setAttribute("aria-label", "Pages of pictures");
        parts.back = button("button", pager, "Back", () => turn(-1));
        parts.where = make("span", "where", pager);
        parts.forth = button("button", pager, "Next", () => turn(1));
        parts.captions = make("details", "captions", parts.body);
        Object.assign(view, {element, parts, version: null, cards: new Map(), selected: ""});
        if (lib().captions) lib().captions.build(parts.captions);
    }

    function choose(id) {
        Object.assign(view, {id, version: null, filter: NONE, start: 0, selected: "", status: null});
        view.parts.search.value = "";
        try {
            localStorage.setItem(REMEMBERED, id);
        } catch (error) { // a browser that keeps nothing
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
        const listed = (await lib().ask("datasets")).datasets;
        if (!listed.some((one) => one.id === view.id)) view.id = "";
        if (!view.id && listed.length) view.id = (listed.find((one) => one.id === remembered()) || listed[0]).id;
        showDatasets(listed);
    }

    function showDatasets(listed) {
        const names = listed.map((one) => one.name);
        view.parts.select.replaceChildren(...listed.map((one) => {
            const twice = names.filter((name) => name === one.name).length > 1;
            const option = make("option", "", null, twice ? one.folder : one.name);
            option.value = one.id;
            option.title = one.folder;
            return option;
        }));
        view.parts.select.value = view.id;
    }

    function filter(change) {
        view.filter = Object.assign({}, view.filter, change);
        view.start = 0;
        showChips();
        return load();
    }

    function turn(pages) {
        view.start = Math.max(0, view.start + pages * PER_PAGE);
        view.selected = "";
        return load().then(() => view.parts.chips.scrollIntoView({block: "nearest"}));
    }

    async function load() {
        const wanted = view.id, asked = new URLSearchParams(Object.assign({start: view.start, count: PER_PAGE}, view.filter));
        const page = await ask("/pictures?" + asked);
        if (wanted !== view.id || page.start !== view.start) return;
        if (!page.pictures.length && page.total) return turn(-Math.ceil((view.start - page.total + 1) / PER_PAGE));
        view.pictures = page.pictures;
        view.total = page.total;
        showGrid();
    }

    // Cards that stay the same stay in place: nothing jumps, and the focus is kept.
    function showGrid() {
        const grid = view.parts.grid, hadFocus = grid.contains(document.activeElement);
        const position = [...grid.children].findIndex((card) => card.dataset.key === view.selected);
        const cards = view.pictures.map((picture) => {
            const text = JSON.stringify(picture), old = view.cards.get(picture.key);
            return old && old.text === text ? old : {text, key: picture.key, element: makeCard(picture)};
        });
        const same = cards.length === grid.children.length && cards.every((card, n) => grid.children[n].dataset.key === card.key);
        if (same) cards.forEach((card, n) => card.element !== grid.children[n] && grid.children[n].replaceWith(card.element));
        else grid.replaceChildren(...cards.map((card) => card.element));
        view.cards = new Map(cards.map((card) => [card.key, card]));
        if (!view.cards.has(view.selected)) {
            const next = view.pictures[Math.min(Math.max(0, position), view.pictures.length - 1)];
            view.selected = next ? next.key : "";
        }
        select(view.selected, hadFocus && !grid.contains(document.activeElement));
        const last = Math.min(view.start + PER_PAGE, view.total);
        view.parts.where.textContent = view.total ? (view.start + 1) + " to " + last + " of " + view.total : "No pictures here";
        view.parts.back.disabled = view.start === 0;
        view.parts.forth.disabled = last >= view.total;
    }

    function score(name, value) {
        return ({blur: "blur ", range: "light ", similar: "similar "}[name] || name + " ") + value.toFixed(2);
    }

    function outcome(picture) {
        const by = picture.overruled === null || picture.overruled === undefined ? "" : " by you";
        return (picture.outcome === "kept" ? "Kept" : "Left out") + by;
    }

    function title(picture) {
        return picture.file + (picture.operation && picture.operation !== "original" ? " · " + picture.operation : "");
    }

    function reason(picture) {
        return picture.reason && picture.reason !== "left out by you" ? picture.reason.charAt(0).toUpperCase() + picture.reason.slice(1) : "";
    }

    function image(parent, key, alt) {
        const element = make("img", "", parent);
        element.loading = "lazy";
        element.decoding = "async";
        element.alt = alt;
        element.src = pictureUrl(key, "thumbnail");
        return element;
    }

    function makeCard(picture) {
        const card = make("li", "tile");
        card.dataset.key = picture.key;
        card.dataset.outcome = picture.outcome;
        card.tabIndex = -1;
        card.setAttribute("aria-label", [title(picture), outcome(picture), reason(picture)].filter(Boolean).join(". "));
        const shown = make("div", "thumbs", card);
        shown.addEventListener("click", () => open(picture.key));
        if (picture.thumbnail) image(shown, picture.key, "");
        else make("span", "nothing", shown, "No picture");
        if (picture.rule === "similar" && picture.twin) {
            const twin = make("figure", "twin", shown);
            image(twin, picture.twin, "The one that is kept");
            make("figcaption", "", twin, "kept instead");
        }
        make("span", "badge", card, outcome(picture));
        make("b", "name", card, title(picture)).title = picture.file;
        const why = reason(picture);
        if (why) make("span", "reason", card, why);
        const scores = Object.entries(picture.scores || {}).map(([name, value]) => score(name, value));
        make("span", "scores", card, scores.join(" · "));
        make("span", "caption", card, picture.caption || (picture.outcome === "kept" ? "No caption" : "")).title = picture.caption || "";
        decisions(make("div", "decide", card), picture, "tile");
        return card;
    }

    function decisions(parent, picture, where) {
        const add = (text, keep, pressed, about) => {
            const made = button("button", parent, text, () => decide(picture.key, pressed ? null : keep));
            made.setAttribute("aria-pressed", String(pressed));
            made.setAttribute("aria-label", about + " " + title(picture));
            made.dataset.decide = keep ? "keep" : "reject";
            if (where === "tile") made.tabIndex = -1;
            return made;
        };
        add("Keep", true, picture.overruled === true, "Keep").disabled = !picture.can_be_kept;
        add("Leave out", false, picture.overruled === false, "Leave out").disabled = !picture.can_be_kept;
    }

    // keep: true, false, or null for what the rules say
    async function decide(key, keep) {
        try {
            const answer = await ask("/pictures/" + encodeURIComponent(key) + "/overrule", "POST", {keep});
            const known = view.pictures.findIndex((picture) => picture.key === key);
            const shown = Object.assign({}, answer.picture, {twin: answer.picture.twin ? answer.picture.twin.key : ""});
            if (known >= 0) view.pictures[known] = shown;
            showGrid();
            say(answer.waits ? "Remembered, and done at the next preparation: " + answer.waits : "");
            return answer.picture;
        } catch (error) {
            say(error.message, true);
            return null;
        }
    }

    function say(text, bad) {
        view.said = text;
        view.parts.text.textContent = text || " ";
        view.parts.text.classList.toggle("lora-train-error", Boolean(bad));
    }

    function select(key, focus) {
        view.selected = key;
        for (const card of view.parts.grid.children) card.tabIndex = card.dataset.key === key ? 0 : -1;
        const card = view.cards.get(key);
        if (focus && card) card.element.focus();
    }

    function columns() {
        const cards = [...view.parts.grid.children];
        const next = cards.findIndex((card) => card.offsetTop !== cards[0].offsetTop);
        return next < 0 ? cards.length : next;
    }

    function onKey(event) {
        if (event.ctrlKey || event.metaKey || event.altKey || !event.target.closest("li")) return;
        const here = view.pictures.findIndex((picture) => picture.key === view.selected);
        const go = (by) => {
            const next = view.pictures[Math.min(Math.max(0, here + by), view.pictures.length - 1)];
            if (next) select(next.key, true);
        };
        const picture = view.pictures[here];
        const actions = {
            ArrowRight: () => go(1), ArrowLeft: () => go(-1), ArrowDown: () => go(columns()), ArrowUp: () => go(-columns()),
            Home: () => go(-PER_PAGE), End: () => go(PER_PAGE),
            k: () => picture.can_be_kept && decide(picture.key, true),
            r: () => picture.can_be_kept && decide(picture.key, false),
            u: () => picture.can_be_kept && decide(picture.key, null),
            Enter: () => open(picture.key),
        };
        const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
        if (!picture || !actions[key] || (key === "Enter" && event.target.tagName === "BUTTON")) return;
        event.preventDefault();
        actions[key]();
    }

    function open(key) {
        select(key, true);
        if (lib().card) lib().card.open(key);
    }

    // the picture before (-1) or after (1) one, on this page of the grid
    function neighbour(key, by) {
        const here = view.pictures.findIndex((picture) => picture.key === key);
        const next = here < 0 ? undefined : view.pictures[here + by];
        if (next) select(next.key, false);
        return next ? next.key : "";
    }

    function chip(text, count, change, pressed) {
        const made = button("chip", view.parts.chips, text + " ", () => filter(change));
        make("span", "count", made, String(count));
        made.setAttribute("aria-pressed", String(pressed));
    }

    function showChips() {
        const counts = view.status && view.status.counts, now = view.filter;
        if (!counts) return;
        view.parts.chips.replaceChildren();
        chip("All", counts.all, {outcome: "", rule: ""}, !now.outcome && !now.rule);
        chip("Kept", counts.kept, {outcome: "kept", rule: ""}, now.outcome === "kept");
        chip("Left out", counts.rejected, {outcome: "rejected", rule: ""}, now.outcome === "rejected" && !now.rule);
        const rules = Object.entries(counts.rules);
        rules.filter(([rule]) => rule !== "left out by you" || rules.length > 1).forEach(([rule, count]) => chip(rule, count, {outcome: "rejected", rule}, now.rule === rule));
        view.parts.tag.hidden = !now.tag;
        view.parts.tag.textContent = now.tag ? "with " + now.tag + " ×" : "";
        view.parts.tag.setAttribute("aria-label", "Show also pictures without " + now.tag);
    }

    function showStatus(status) {
        const parts = view.parts, job = status.job || {}, before = view.status;
        view.status = status;
        const state = job.state || "prepared";
        parts.state.textContent = state;
        parts.state.dataset.state = {prepared: "finished"}[state] || state;
        parts.bar.hidden = !status.preparing;
        if (status.preparing) {
            if (job.total) Object.assign(parts.bar, {max: job.total, value: job.done});
            else parts.bar.removeAttribute("value");
            say(job.stage + " … " + job.done + (job.total ? " of " + job.total : ""));
        } else if (state === "failed") {
            say(job.problems.map((problem) => problem.what + " " + problem.fix).join("\n"), true);
        } else if (before && before.preparing) {
            say(state === "stopped" ? "Stopped; what is done is kept. Prepare goes on from there." : "");
        }
        const counts = status.counts;
        parts.body.hidden = !counts;
        parts.train.disabled = !counts || !counts.kept;
        parts.train.textContent = counts ? "Train on these " + counts.kept : "Train on these";
        const notes = [...(status.notes || [])];
        if (counts && counts.pending && !status.preparing) notes.push(counts.pending + " of your decisions are not carried out yet: Prepare does it.");
        if (notes.join() !== [...parts.notes.children].map((note) => note.textContent).join()) {
            parts.notes.replaceChildren(...notes.map((note) => make("li", "", null, note)));
        }
        if (JSON.stringify(counts) !== JSON.stringify(before && before.counts)) showChips();
    }

    function showNothing() {
        view.parts.body.hidden = view.parts.bar.hidden = true;
        view.parts.train.disabled = true;
        say("Nothing is prepared yet. Name a folder of pictures and press Prepare; each picture appears here with what became of it and why.");
    }

    // Fills the training form; gradio may build it only when its tab is shown.
    async function trainOnThese() {
        const folder = view.status.pictures_folder, tabs = lib().root().querySelector("#lora_train_tabs");
        const tab = [...tabs.querySelectorAll("button")].find((one) => /^Train( LoRA)?$/.test(one.textContent.trim()));
        tab.click();
        for (let turns = 0; turns < 50; turns++) {
            const field = lib().root().querySelector("#lora_train_folder textarea, #lora_train_folder input");
            if (field && field.offsetParent !== null) {
                field.value = folder;
                field.dispatchEvent(new Event("input", {bubbles: true}));
                field.focus();
                return;
            }
            await new Promise((done) => setTimeout(done, 100));
        }
    }

    // The form says which dataset it has started.
    function lookForStarted() {
        const told = lib().root().querySelector("#lora_train_dataset_message [data-dataset]");
        if (!told || told.dataset.started === view.started) return "";
        view.started = told.dataset.started;
        return told.dataset.dataset;
    }

    async function tick() {
        const element = lib().root().querySelector("#lora_train_dataset");
        if (!element || element.offsetParent === null) return;
        if (element !== view.element) {
            build(element);
            await listDatasets();
        }
        const started = lookForStarted();
        if (started && started !== view.id) return choose(started);
        if (!view.id) return showNothing();
        const wanted = view.id, status = await ask("");
        if (wanted !== view.id) return;
        showStatus(status);
        if (status.version && status.version !== view.version) {
            view.version = status.version;
            await listDatasets();
            await load();
            if (lib().captions) await lib().captions.refresh();
        }
    }

    function start() {
        if (!lib()) return setTimeout(start, 50);
        lib().dataset = {ask, load, filter, decide, decisions, neighbour, pictureUrl, button, labelled, outcome, title, reason, score,
            host: () => view.element, status: () => view.status, focus: () => select(view.selected, true), said: say};
        lib().keepDoing(tick, POLL_MS);
    }

    start();
})();
