"""A body of 4 MiB in punycode took minutes of the event loop to be decoded."""

import json

import pytest
from django.test import Client

BODY = json.dumps({"nickname": "민아"}, ensure_ascii=False).encode()


@pytest.mark.django_db
@pytest.mark.parametrize("charset", ["punycode", "idna", "utf-7", "utf-8", "nothing"])
def test_a_body_is_read_as_utf8_whatever_its_header_says(client: Client, charset: str) -> None:
    made = client.generic("POST", "/api/v1/contributors", BODY, content_type=f"application/json; charset={charset}")
    assert (made.status_code, made.json().get("nickname")) == (201, "민아")


@pytest.mark.django_db
@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=b"])
def test_forms_are_read_as_utf8(client: Client, content_type: str) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="username"\r\n\r\nxaaaa-\r\n--b--\r\n'
    answer = client.generic("POST", "/admin/login/", body, content_type=f"{content_type}; charset=punycode")
    assert answer.status_code == 200
    assert answer.wsgi_request.encoding == "utf-8"
