// The Dataset page: one opened picture, with its crop, its twin, its scores and its caption.
(function () {
    "use strict";

    const card = {dialog: null, picture: null, parts: {}};
    const LIMITS = {blur: ["max_blur", "at most "], range: ["min_range", "at least "], similar: ["max_similarity", "at most "]};

    const lib = () => window.loraTrain;
    const page = () => window.loraTrain.dataset;
    const grid = () => window.loraTrain.grid;
    const make = (...given) => lib().make(...given);

    function build() {
        const dialog = make("dialog", "card", page().host()), parts = {};
        dialog.id = "lora_train_card";
        dialog.setAttribute("aria-labelledby", "lora_train_card_title");
        dialog.addEventListener("keydown", page().tried(onKey));
        dialog.addEventListener("cancel", (event) => event.preventDefault()); // Escape
        dialog.addEventListener("cancel", page().tried(close));
        dialog.addEventListener("close", () => grid().focus());
        dialog.addEventListener("click", page().tried((event) => event.target === dialog && close()));
        const inner = make("div", "inner", dialog), head = make("div", "head", inner);
        parts.title = make("b", "title", head);
        parts.title.id = "lora_train_card_title";
        parts.back = page().button("button", head, "Back", () => go(-1));
        parts.forth = page().button("button", head, "Next", () => go(1));
        page().button("button", head, "Close", close).id = "lora_train_card_close";
        parts.views = make("div", "views", inner);
        const about = make("div", "about", inner);
        parts.outcome = make("span", "badge", about);
        parts.reason = make("span", "reason", about);
        parts.decide = make("div", "decide", about);
        parts.facts = make("dl", "facts", inner);
        const form = parts.form = make("form", "form", inner);
        form.addEventListener("submit", (event) => event.preventDefault());
        form.addEventListener("submit", page().tried(save));
        parts.caption = page().labelled(form, "Caption", make("textarea", "input"));
        parts.caption.id = "lora_train_card_caption";
        parts.caption.rows = 3;
        parts.caption.addEventListener("input", showParts);
        parts.tags = make("div", "chips", form);
        const foot = make("div", "head", form);
        parts.save = make("button", "button lora-train-primary", foot, "Save the caption");
        parts.save.id = "lora_train_card_save";
        parts.uncaptioned = make("p", "hint", inner, "A picture that is left out has no caption of its own; keep it to write one.");
        parts.said = make("p", "hint", inner); // not in the form, which is hidden for left-out pictures
        parts.said.setAttribute("role", "status");
        Object.assign(card, {dialog, parts});
    }

    async function open(key) {
        if (!card.dialog || !card.dialog.isConnected) build();
        await show(key);
        if (!card.dialog.open) card.dialog.showModal();
    }

    // The caption is also saved on closing; where that fails the card stays open.
    async function close() {
        const message = await saved();
        if (message === null) return;
        card.dialog.close();
        if (message) page().say(message);
    }

    async function show(key) {
        const picture = await page().ask("/pictures/" + encodeURIComponent(key));
        const changed = !card.picture || card.picture.key !== key;
        const looksAlike = !changed && card.picture.outcome === picture.outcome && card.picture.output === picture.output;
        card.picture = picture;
        const parts = card.parts;
        parts.title.textContent = grid().title(picture);
        parts.outcome.textContent = grid().outcome(picture);
        parts.outcome.parentNode.dataset.outcome = picture.outcome;
        parts.reason.textContent = grid().reason(picture);
        parts.decide.replaceChildren();
        grid().decisions(parts.decide, picture, "card");
        [...parts.decide.children].forEach((button) => button.addEventListener("click", again));
        if (!looksAlike) showViews(picture);
        showFacts(picture);
        parts.form.hidden = !picture.can_be_captioned;
        parts.uncaptioned.hidden = picture.can_be_captioned;
        if (changed || !looksAlike) parts.caption.value = picture.caption || "";
        if (changed) say("");
        showParts();
    }

    // the decision is applied in the background; the next update shows it
    function again() {
        const key = card.picture.key;
        setTimeout(page().tried(() => card.dialog.open && card.picture.key === key && show(key)), 700);
    }

    function figure(text, key, what, name) {
        const made = make("figure", name || "", card.parts.views), frame = make("div", "frame", made), image = make("img", "", frame);
        image.alt = text;
        image.src = page().pictureUrl(key, what);
        image.addEventListener("error", () => frame.replaceChildren(make("span", "nothing", null, "This picture cannot be shown")));
        make("figcaption", "", made, text);
        return frame;
    }

    function showViews(picture) {
        card.parts.views.replaceChildren();
        const size = picture.source_size || [0, 0], known = size[0] > 0;
        const frame = figure("Your picture" + (known ? ", " + size[0] + " × " + size[1] : ""), picture.key, "source");
        if (picture.box && known) {
            const [left, top, right, bottom] = picture.box, box = make("div", "box", frame);
            const part = (value, of) => (100 * value / of) + "%";
            Object.assign(box.style, {left: part(left, size[0]), top: part(top, size[1]), width: part(right - left, size[0]), height: part(bottom - top, size[1])});
            box.title = "Crop: " + (right - left) + " × " + (bottom - top);
        }
        if (picture.can_be_captioned) figure("Prepared", picture.key, "result");
        const twin = picture.twin;
        if (twin && picture.rule === "similar") figure("Kept instead: " + grid().title(twin), twin.key, "source");
    }

    function showFacts(picture) {
        const options = page().status().options || {}, rows = [];
        for (const [name, value] of Object.entries(picture.scores || {})) {
            const limit = LIMITS[name];
            rows.push([grid().score(name, value), limit && options[limit[0]] !== undefined ? limit[1] + options[limit[0]] : ""]);
        }
        if (picture.box) rows.push(["crop " + (picture.box[2] - picture.box[0]) + " × " + (picture.box[3] - picture.box[1]), ""]);
        if (picture.detector) rows.push(["found by " + picture.detector, picture.confidence === null ? "" : picture.confidence.toFixed(2) + " confidence"]);
        card.parts.facts.replaceChildren(...rows.flatMap(([what, limit]) => [make("dt", "", null, what), make("dd", "", null, limit)]));
    }

    function parts() {
        return card.parts.caption.value.split(",").map((part) => part.trim()).filter(Boolean);
    }

    // a button for each part of the caption, which removes it
    function showParts() {
        card.parts.tags.replaceChildren(...parts().map((part, number) => {
            const made = page().button("chip", null, part + " ×", () => {
                card.parts.caption.value = parts().filter((_, other) => other !== number).join(", ");
                showParts();
                card.parts.caption.focus();
            });
            made.setAttribute("aria-label", "Remove " + part);
            return made;
        }));
    }

    // true when it is saved; else the card says why not
    async function save() {
        try {
            const answer = await page().ask("/pictures/" + encodeURIComponent(card.picture.key) + "/caption", "PUT", {caption: card.parts.caption.value});
            card.picture.caption = answer.picture.caption;
            say("Saved.");
        } catch (error) {
            say("Not saved: " + error.message, true);
            return false;
        }
        await grid().load();
        await lib().captions.refresh();
        return true;
    }

    function say(text, bad) {
        card.parts.said.textContent = text;
        card.parts.said.classList.toggle("lora-train-error", Boolean(bad));
    }

    function isOpen() {
        return Boolean(card.dialog && card.dialog.open);
    }

    // Saves a changed caption. Returns a message, "" when there was nothing to save, null when it failed.
    async function saved() {
        if (!isOpen() || !unsaved()) return "";
        const text = "Saved the caption of " + card.picture.file + ".";
        return (await save()) ? text : null;
    }

    function unsaved() {
        return card.picture.can_be_captioned && card.parts.caption.value.trim() !== (card.picture.caption || "");
    }

    async function go(by) {
        const message = await saved();
        if (message === null) return;
        const next = grid().neighbour(card.picture.key, by);
        if (next) await show(next);
        say([message, next ? "" : "This is the " + (by > 0 ? "last" : "first") + " picture on this page."].filter(Boolean).join(" "));
    }

    async function decide(keep) {
        const key = card.picture.key;
        if (!card.picture.can_be_kept) return;
        await grid().decide(key, keep);
        await show(key);
        again();
    }

    function onKey(event) {
        const typing = ["TEXTAREA", "INPUT"].includes(event.target.tagName);
        if (typing && event.key === "Enter" && (event.ctrlKey || event.metaKey)) return save();
        event.stopPropagation(); // the WebUI has shortcuts of its own
        if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
        const actions = {ArrowLeft: () => go(-1), ArrowRight: () => go(1), k: () => decide(true), r: () => decide(false), u: () => decide(null)};
        const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
        if (!action) return;
        event.preventDefault();
        return action();
    }

    function start() {
        if (!lib()) return setTimeout(start, 50);
        lib().card = {open, say, saved, isOpen};
    }

    start();
})();
