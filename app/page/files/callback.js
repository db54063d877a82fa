// The popup, back from the identity provider: hands its query to the page, and closes. The query has no token.
const query = location.search;
history.replaceState(null, "", location.pathname);
const channel = new BroadcastChannel("byok-sign-in");
channel.postMessage(query);
channel.close();
window.close();
