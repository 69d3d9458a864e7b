// The Train page: earlier runs, with Resume where that is possible.
(function () {
    "use strict";

    const SHOWN = 50;
    const lib = () => window.loraTrain;
    const make = (...given) => lib().make(...given);

    // Reads the list when it is opened.
    function build(element) {
        make("summary", "", element, "Earlier runs").id = "lora_train_earlier";
        make("ul", "runs", element);
        element.addEventListener("toggle", () => refresh(element));
    }

    // Reads the list again where it is open: a run has begun or ended.
    function refresh(element) {
        if (element.open) show(element.querySelector("ul"));
    }

    async function show(list) {
        try {
            const runs = await lib().ask("runs");
            list.replaceChildren(...runs.slice(0, SHOWN).map((run) => line(run, list)));
            if (!runs.length) make("li", "hint", list, "There are none yet.");
            if (runs.length > SHOWN) make("li", "hint", list, "and " + (runs.length - SHOWN) + " more");
        } catch (error) {
            list.replaceChildren(make("li", "error", null, error.message));
        }
    }

    function line(run, list) {
        const made = make("li", "run", null), created = run.created ? new Date(1000 * run.created).toLocaleString() : "";
        made.dataset.run = run.id;
        make("b", "", made, run.name || run.id);
        const state = make("span", "state", made, run.state);
        state.dataset.state = run.state;
        const steps = run.steps_done ? run.steps_done + (run.steps ? " of " + run.steps : "") + " steps" : "";
        make("span", "hint", made, [steps, created].filter(Boolean).join(" · "));
        if (run.can_resume) {
            const button = make("button", "button", made, run.has_state ? "Resume" : "Start again");
            button.type = "button";
            button.setAttribute("aria-label", button.textContent + " " + run.name + ", " + created);
            button.addEventListener("click", (event) => lib().again(event) || resume(run, list));
        }
        return made;
    }

    async function resume(run, list) {
        try {
            await lib().ask("runs/" + encodeURIComponent(run.id) + "/resume", "POST");
            list.parentNode.open = false;
        } catch (error) {
            list.replaceChildren(make("li", "error", null, error.message));
        }
    }

    function start() {
        if (!lib()) return setTimeout(start, 50);
        lib().runs = {build, refresh};
    }

    start();
})();
