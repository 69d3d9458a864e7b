// The Dataset page: a page of pictures with outcome, reason and caption, chosen by filters; decisions by button or key.
(function () {
    "use strict";

    const PER_PAGE = 60;
    const NONE = {outcome: "", rule: "", text: "", tag: ""};
    const view = {filter: NONE, start: 0, total: 0, pictures: [], cards: new Map(), selected: "", parts: {}};

    const lib = () => window.loraTrain;
    const page = () => window.loraTrain.dataset;
    const make = (...given) => lib().make(...given);

    function build(element) {
        const parts = {};
        parts.chips = make("div", "chips", element);
        parts.chips.setAttribute("role", "group");
        parts.chips.setAttribute("aria-label", "Which pictures are shown");
        const tools = make("div", "tools", element);
        parts.search = page().labelled(tools, "File name", make("input", "input"));
        parts.search.type = "search";
        parts.search.id = "lora_train_dataset_search";
        parts.search.addEventListener("input", page().tried(() => filter({text: parts.search.value})));
        parts.tag = page().button("chip", tools, "", () => filter({tag: ""}));
        parts.tag.hidden = true;
        make("span", "hint", tools, "Arrows move, k keeps, r leaves out, u undoes that, Enter opens");
        parts.grid = make("ul", "grid", element);
        parts.grid.id = "lora_train_grid";
        parts.grid.setAttribute("aria-label", "Pictures");
        parts.grid.addEventListener("keydown", page().tried(onKey));
        parts.grid.addEventListener("focusin", (event) => {
            const card = event.target.closest("li");
            if (card) select(card.dataset.key, false);
        });
        const pager = make("nav", "pager", element);
        pager.setAttribute("aria-label", "Pages of pictures");
        parts.back = page().button("button", pager, "Back", () => turn(-1));
        parts.where = make("span", "where", pager);
        parts.forth = page().button("button", pager, "Next", () => turn(1));
        Object.assign(view, {parts, cards: new Map(), selected: ""});
    }

    function reset() {
        Object.assign(view, {filter: NONE, start: 0, selected: ""});
        view.parts.search.value = "";
        showChips();
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
        const wanted = page().id(), asked = new URLSearchParams(Object.assign({start: view.start, count: PER_PAGE}, view.filter)).toString();
        view.asked = asked;
        const answer = await page().ask("/pictures?" + asked);
        if (wanted !== page().id() || view.asked !== asked) return; // something else has been asked for since
        if (!answer.pictures.length && answer.total) return turn(-Math.ceil((view.start - answer.total + 1) / PER_PAGE));
        view.pictures = answer.pictures;
        view.total = answer.total;
        show();
    }

    // Unchanged cards stay in place: nothing jumps, and the focus is kept.
    function show() {
        const grid = view.parts.grid, hadFocus = grid.contains(document.activeElement);
        const position = [...grid.children].findIndex((card) => card.dataset.key === view.selected);
        const cards = view.pictures.map((picture) => {
            const text = page().id() + JSON.stringify(picture), old = view.cards.get(picture.key);
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
        return ({range: "light"}[name] || name) + " " + (typeof value === "number" ? value.toFixed(2) : "–");
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
        element.src = page().pictureUrl(key, "thumbnail");
        return element;
    }

    function makeCard(picture) {
        const card = make("li", "tile");
        card.dataset.key = picture.key;
        card.dataset.outcome = picture.outcome;
        card.tabIndex = -1;
        card.setAttribute("aria-label", [title(picture), outcome(picture), reason(picture)].filter(Boolean).join(". "));
        const shown = make("div", "thumbs", card);
        shown.addEventListener("click", page().tried(() => open(picture.key)));
        if (picture.thumbnail) image(shown, picture.key, "");
        else make("span", "nothing", shown, "No picture");
        if (picture.rule === "similar" && picture.twin) {
            const twin = make("figure", "twin", shown);
            image(twin, picture.twin, "The one kept");
            make("figcaption", "", twin, "kept instead");
        }
        make("span", "badge", card, outcome(picture));
        make("span", "name", card, title(picture)).title = picture.file;
        const why = reason(picture);
        if (why) make("span", "reason", card, why);
        make("span", "scores", card, Object.entries(picture.scores || {}).map(([name, value]) => score(name, value)).join(" · "));
        make("span", "caption", card, picture.caption || (picture.outcome === "kept" ? "No caption" : "")).title = picture.caption || "";
        decisions(make("div", "decide", card), picture, true);
        return card;
    }

    // the two buttons; pressing an active one reverts the decision
    function decisions(parent, picture, inTile) {
        const add = (text, keep, pressed) => {
            // the second click of a double click would revert the first
            const made = page().button("button", parent, text, (event) => event.detail > 1 || decide(picture.key, pressed ? null : keep));
            made.setAttribute("aria-pressed", String(pressed));
            made.setAttribute("aria-label", text + " " + title(picture));
            made.dataset.decide = keep ? "keep" : "reject";
            made.disabled = !picture.can_be_kept;
            if (inTile) made.tabIndex = -1;
        };
        add("Keep", true, picture.overruled === true);
        add("Leave out", false, picture.overruled === false);
    }

    // keep: true, false, or null to follow the rules
    async function decide(key, keep) {
        if ((await lib().card.saved()) === null) return; // a left-out picture no longer has a caption of its own
        const answer = await page().ask("/pictures/" + encodeURIComponent(key) + "/overrule", "POST", {keep});
        const known = view.pictures.findIndex((picture) => picture.key === key);
        if (known >= 0) view.pictures[known] = Object.assign({}, answer.picture, {twin: answer.picture.twin ? answer.picture.twin.key : ""});
        show();
        page().notify(answer.waits ? "Saved, and applied at the next preparation: " + lib().worded(answer.waits) : "");
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
        const here = view.pictures.findIndex((picture) => picture.key === view.selected), picture = view.pictures[here];
        const go = (by) => select(view.pictures[Math.min(Math.max(0, here + by), view.pictures.length - 1)].key, true);
        const judge = (keep) => picture.can_be_kept && decide(picture.key, keep);
        const actions = {
            ArrowRight: () => go(1), ArrowLeft: () => go(-1), ArrowDown: () => go(columns()), ArrowUp: () => go(-columns()),
            Home: () => go(-PER_PAGE), End: () => go(PER_PAGE),
            k: () => judge(true), r: () => judge(false), u: () => judge(null), Enter: () => open(picture.key),
        };
        const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
        if (!picture || !actions[key] || (key === "Enter" && event.target.tagName === "BUTTON")) return;
        event.preventDefault();
        event.stopPropagation(); // the WebUI has shortcuts of its own
        return actions[key]();
    }

    function open(key) {
        select(key, true);
        return lib().card.open(key);
    }

    // the picture before (-1) or after (1) one, on this page; "" at its ends
    function neighbour(key, by) {
        const here = view.pictures.findIndex((picture) => picture.key === key);
        const next = here < 0 ? undefined : view.pictures[here + by];
        if (next) select(next.key, false);
        return next ? next.key : "";
    }

    function chip(text, count, change, pressed) {
        const made = page().button("chip", view.parts.chips, "", () => filter(change));
        make("span", "what", made, text).title = text;
        make("span", "count", made, String(count));
        made.setAttribute("aria-pressed", String(pressed));
    }

    function showChips() {
        const counts = page().status() && page().status().counts, now = view.filter;
        view.parts.chips.replaceChildren();
        view.parts.tag.hidden = !now.tag;
        view.parts.tag.textContent = "with " + now.tag + " ×";
        view.parts.tag.setAttribute("aria-label", "Also show pictures without " + now.tag);
        if (!counts) return;
        chip("All", counts.all, {outcome: "", rule: ""}, !now.outcome && !now.rule);
        chip("Kept", counts.kept, {outcome: "kept", rule: ""}, now.outcome === "kept");
        chip("Left out", counts.rejected, {outcome: "rejected", rule: ""}, now.outcome === "rejected" && !now.rule);
        for (const [rule, count] of Object.entries(counts.rules)) chip({range: "light"}[rule] || rule, count, {outcome: "rejected", rule}, now.rule === rule);
    }

    function start() {
        if (!lib()) return setTimeout(start, 50);
        lib().grid = {build, reset, load, filter, showChips, decide, decisions, neighbour, outcome, title, reason, score,
            focus: () => select(view.selected, true)};
    }

    start();
})();
