// The search field of the training form: only options that have all the words stay, with their folds open.
(function () {
    "use strict";

    const POLL_MS = 500;
    const {root, make, keepDoing} = window.loraTrain;
    // `before` is which folds were open before the search; null where nothing is searched for
    const state = {element: null, options: null, before: null, found: new Set(), parts: {}};
    const watch = new MutationObserver(mark);

    // min_snr_gamma, --min-snr and "Min-SNR gamma" begin with the same words
    function plain(text) {
        return " " + text.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, " ").trim();
    }

    function byId(id) {
        return root().querySelector("#" + id);
    }

    function folds() {
        return [...new Set(state.options.fields.map((one) => one.group).filter(Boolean))].map(byId).filter(Boolean);
    }

    function bar(fold) {
        return fold.querySelector(".label-wrap");
    }

    function isOpen(fold) {
        return Boolean(bar(fold)) && bar(fold).classList.contains("open");
    }

    function setOpen(fold, open) {
        if (bar(fold) && isOpen(fold) !== open) bar(fold).click();
    }

    // Newer gradios make what is inside of a fold when it is first opened: this runs again then.
    function mark() {
        for (const option of state.options.fields) {
            const field = byId(option.id), found = state.found.has(option.id);
            if (!field) continue;
            if (option.group) field.hidden = state.before !== null && !found;
            field.toggleAttribute("data-found", state.before !== null && found && !option.group);
        }
    }

    function search() {
        const words = plain(state.parts.input.value).split(/\s+/).filter(Boolean);
        const has = (one) => words.every((word) => one.plain.includes(" " + word));
        if (!words.length) return clear();
        if (state.before === null) {
            state.before = new Set(folds().filter(isOpen).map((fold) => fold.id));
            for (const fold of folds()) watch.observe(fold, {childList: true, subtree: true});
        }
        const found = state.options.fields.filter(has), elsewhere = state.options.elsewhere.filter(has);
        const groups = new Set(found.map((one) => one.group));
        state.found = new Set(found.map((one) => one.id));
        for (const fold of folds()) {
            fold.hidden = !groups.has(fold.id);
            if (!fold.hidden) setOpen(fold, true);
        }
        mark();
        const count = found.length === 1 ? "1 option" : found.length + " options";
        const lines = found.length || !elsewhere.length ? [found.length ? count : "No option has these words"] : [];
        say([...lines, ...elsewhere.map((one) => one.label + ": " + one.why)].join("\n"));
    }

    function clear() {
        say("");
        if (state.before === null) return;
        const before = state.before;
        state.before = null;
        state.found = new Set();
        watch.disconnect();
        for (const fold of folds()) {
            fold.hidden = false;
            setOpen(fold, before.has(fold.id));
        }
        mark();
    }

    function say(text) {
        if (state.parts.said.textContent !== text) state.parts.said.textContent = text;
    }

    function build(element) {
        const typed = state.parts.input ? state.parts.input.value : "";
        element.replaceChildren();
        const options = JSON.parse(element.dataset.options);
        for (const one of [...options.fields, ...options.elsewhere]) one.plain = plain(one.words);
        watch.disconnect();
        Object.assign(state, {element, options, before: null, found: new Set()});
        const input = state.parts.input = make("input", "input", element);
        input.type = "search";
        input.id = "lora_train_search_field";
        input.value = typed;
        input.placeholder = "Find an option: rank, noise, min_snr_gamma ...";
        input.setAttribute("aria-label", "Find an option");
        input.addEventListener("input", search);
        state.parts.said = make("div", "found", element);
        state.parts.said.setAttribute("role", "status");
        if (typed) search();
    }

    async function attach() {
        const element = byId("lora_train_search");
        if (element && element !== state.element && element.dataset.options) build(element);
    }

    keepDoing(attach, POLL_MS);
})();
