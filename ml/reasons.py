"""Why a document was left out or changed: the codes of prepare-report.json, and what each rule does."""

LEFT_OUT = {
    "attribution": "names a source and its licence, and is no text to learn from",
    "binary": "a picture or another binary file under a name of a text",
    "duplicate": "the same words as an earlier document",
    "empty": "no bytes, or white space alone",
    "link": "a link to a file or folder inside, which is read at its own place",
    "link-broken": "a link to nothing, or to itself",
    "link-out": "a link that leads out of the folder",
    "near-duplicate": "nearly the same words as an earlier document, by MinHash",
    "no-document": "a line of JSONL that holds no text",
    "not-a-file": "a pipe, a socket or a device",
    "nothing-left": "only markup or repeated text, so that cleaning leaves nothing",
    "other-kind": "no kind of text that is read",
    "tool-folder": "a folder of a tool, such as .git or node_modules, with all that is in it",
    "too-big": "more bytes than a document may have: split it",
    "unfinished": "a download that `fai fetch` did not finish",
    "unreadable": "could not be read",
}
"""Code, and what such a file is."""

CHANGED = {
    "bom": "byte-order mark taken away",
    "control-characters": "control and invisible characters taken out of prose",
    "cp949": "read as CP949",
    "email": "e-mail addresses became [EMAIL]",
    "entities": "HTML entities became the characters that they stand for",
    "escape-codes": "a terminal's escape codes taken out",
    "file-name": "the sample has a name that every file system takes",
    "front-matter": "front matter taken away, its title kept as a heading",
    "front-matter-unclosed": "front matter had no end: its fields were taken away, the text after them kept",
    "home-path": "a user's name in a path or prompt became [USER]",
    "html": "HTML tags, comments, scripts and components taken out of prose",
    "identity-number": "resident registration numbers became [ID]",
    "invalid-utf8": "bytes that are no UTF-8 became U+FFFD",
    "ip-address": "public IP addresses became [IP]",
    "line-ends": "CRLF and CR became LF",
    "links": "links became their text, pictures their description",
    "long-runs": "runs of characters without a space, as in minified or encoded data, taken out",
    "mojibake": "UTF-8 that had been read as cp1252 or Latin-1 restored",
    "nfc": "decomposed letters composed",
    "nul": "NUL bytes taken out",
    "phone": "telephone numbers became [PHONE]",
    "repeated-text": "paragraphs that an earlier document has word for word taken out",
    "secret": "API keys, tokens and private keys became [SECRET]",
    "separators": "U+2028, U+2029, U+0085, vertical tabs and form feeds became line ends",
    "site-syntax": "template tags, heading anchors and container marks of site generators taken out",
    "special-token": "the end-of-text token, written out in a text, got spaces inside",
    "unclosed-fence": "a code block had no end: it was closed at the first blank line",
    "utf-16": "read as UTF-16",
    "utf-32": "read as UTF-32",
    "white-space": "spaces at line ends and surplus blank lines taken out",
}
"""Code, and what was done."""

REASONS = LEFT_OUT | CHANGED
