"""ml.chat_template in Jinja, which transformers and llama.cpp render from a list of messages.

The tokens are the same, except where a message itself holds a marker: these programs read it as the marker.
"""

CHAT_TEMPLATE = r"""
{%- set ns = namespace(instructions='') -%}
{%- for message in messages -%}
    {%- if message['role'] in ['system', 'developer'] -%}
        {%- set ns.instructions = ns.instructions + message['content'] + '\n\n' -%}
    {%- elif message['role'] == 'user' -%}
        {{- '<|endoftext|>[QUESTION]\n' + ns.instructions + message['content'] + '\n[/QUESTION]\n' -}}
        {%- set ns.instructions = '' -%}
    {%- else -%}
        {{- '[ANSWER]\n' + message['content'] + '\n[/ANSWER]' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '[ANSWER]\n' -}}
{%- endif -%}
""".strip()
