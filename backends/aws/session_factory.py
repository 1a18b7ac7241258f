"""A session factory (``[aws] session_factory``) as deployments write it whose credentials change while they run.

Each request is signed with the credentials of that moment, which a service beside the control plane gives out. botocore
itself keeps the first ones that it finds, so that none of its own providers lets credentials go missing later: without
a factory, ``NoCredentialsError`` is raised where a client is made without any, and in the first request.
"""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlencode

import boto3
from airflow.providers.amazon.aws.hooks.base_aws import BaseSessionFactory
from botocore.credentials import Credentials, ReadOnlyCredentials
from botocore.exceptions import CredentialRetrievalError

URL = "credentials_url"
"""Name in the extra of an AWS connection: the address of the service that gives out the credentials."""
TIMEOUT_S = 2.0
"""As of botocore's own request to such a service."""
_NONE = 404
"""The service's answer if there are no credentials."""


class CurrentCredentials(Credentials):
    """The credentials of this moment, for the request that the thread is about to sign."""

    def __init__(self, url: str) -> None:
        super().__init__("", "", method="conformance")
        self._url = url
        # Not by way of a proxy: the service is on this host
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._request = threading.local()

    def note_request(self, signing_name: str = "", operation_name: str = "", **kwargs: Any) -> None:
        """Take note of the request that comes next; a handler of botocore's event ``before-sign``."""
        self._request.asked = {"service": signing_name, "operation": operation_name}

    def get_frozen_credentials(self) -> ReadOnlyCredentials | None:
        """Ask the service for credentials. None if there are none: botocore then raises NoCredentialsError.

        :raises CredentialRetrievalError: The service fails.
        """
        url = f"{self._url}?{urlencode(getattr(self._request, 'asked', {}))}"
        try:
            with self._opener.open(url, timeout=TIMEOUT_S) as answer:
                given = json.loads(answer.read())
            return ReadOnlyCredentials(given["AccessKeyId"], given["SecretAccessKey"], None, None)
        except urllib.error.HTTPError as error:
            if error.code == _NONE:
                return None
            raise CredentialRetrievalError(provider=self.method, error_msg=str(error)) from None
        except (OSError, ValueError, KeyError) as error:
            raise CredentialRetrievalError(provider=self.method, error_msg=repr(error)) from None


class CurrentSessionFactory(BaseSessionFactory):
    """Make sessions with current credentials for connections that name a service for them, others as usual."""

    def _create_basic_session(self, session_kwargs: dict[str, Any]) -> boto3.session.Session:
        session = super()._create_basic_session(session_kwargs)
        if url := self.extra_config.get(URL):
            credentials = CurrentCredentials(url)
            # As the provider's own factory does with the credentials of a role
            session._session._credentials = credentials
            session.events.register("before-sign", credentials.note_request)
        return session
