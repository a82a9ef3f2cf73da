"""`lite serve`: a GGUF behind OpenAI's chat completions over HTTP, and a page to try its dial.

Starlette and uvicorn carry the HTTP. run: socket, key, signals. guard: what stands before every route. service: the
routes. api: the JSON, without sockets. metrics: what is counted. page/: what a browser gets.
"""
