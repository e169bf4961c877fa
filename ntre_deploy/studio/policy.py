"""What the page may load, as its Content-Security-Policy says it: nothing but what comes from where it came from."""

# no text of a file or class can become a script; `blob:` are photos in the page's own memory, and the web runtime
# compiles WebAssembly
DIRECTIVES = (
    "default-src 'self'",
    "script-src 'self' 'wasm-unsafe-eval'",
    "img-src 'self' blob:",
    "media-src 'self' blob:",
    "worker-src 'self'",
    "object-src 'none'",
    "base-uri 'none'",
    "form-action 'none'",
)
# a header alone can say this, and no `<meta>`
FRAMES = "frame-ancestors 'none'"

# with these, a page may have threads in WebAssembly
ISOLATION = {
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-resource-policy": "same-origin",
}
HEADERS = {
    "content-security-policy": "; ".join([*DIRECTIVES, FRAMES]),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    **ISOLATION,
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}
