// A separate process for WebGL crashed after some moves; drawing in the page's own process does not.
pref("webgl.out-of-process", false);
// A first page from this machine only: no welcome, no reports, no update check.
pref("browser.aboutwelcome.enabled", false);
pref("browser.shell.checkDefaultBrowser", false);
pref("datareporting.policy.dataSubmissionEnabled", false);
pref("toolkit.telemetry.reportingpolicy.firstRun", false);
