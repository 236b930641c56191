// Two conveniences; every page works without them.
"use strict";

// Times in the reader's own zone instead of UTC.
function showLocalTimes() {
  const format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  for (const time of document.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    time.title = time.textContent;
    time.textContent = format.format(at);
  }
}

// The success page asks for itself until the payment has been confirmed, ever more slowly.
const PAUSES_MS = [1000, 1000, 1500, 2000, 3000, 4000, 5000, 8000];
const LONGEST_MS = 15000;
const SLOW_AFTER = 8;
const GIVE_UP_AFTER = 60;

async function pollSuccessPage(attempt) {
  const main = document.getElementById("main");
  if (main.dataset.state !== "processing" || attempt > GIVE_UP_AFTER) return;
  if (attempt === SLOW_AFTER) main.querySelector(".slow").hidden = false;
  await new Promise((resolve) => setTimeout(resolve, PAUSES_MS[attempt] ?? LONGEST_MS));
  try {
    const answer = await fetch(location.href, { cache: "no-store" });
    if (answer.ok) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById("main");
      if (fresh && fresh.dataset.state !== "processing") {
        document.title = page.title;
        main.replaceWith(fresh);
        showLocalTimes();
        fresh.focus();
        return;
      }
    }
  } catch {
    // Offline for a moment: ask again.
  }
  pollSuccessPage(attempt + 1);
}

document.addEventListener("DOMContentLoaded", () => {
  showLocalTimes();
  pollSuccessPage(0);
});
