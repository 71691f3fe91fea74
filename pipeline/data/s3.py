"""Local copies of S3 objects, fetched again only when the object has changed."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from pipeline.data.errors import DataError, one_line


def local_copy(source: str) -> Path:
    """The path of an up-to-date local copy of `s3://bucket/key`. Raises DataError.

    Copies lie in the user's cache folder under the object's ETag, by which the server is asked whether it has changed.
    """
    bucket, _, key = source.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise DataError(source, ["an S3 source is s3://bucket/key"])
    try:
        return _fetch(bucket, key)
    except ClientError as error:
        raise DataError(source, [_sentence(error, bucket, key)]) from None
    except NoCredentialsError:
        keys = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        raise DataError(source, [f"there are no AWS credentials: set {keys}"]) from None
    except (BotoCoreError, ValueError) as error:
        raise DataError(source, [f"no answer from the S3 server: {one_line(error)}; check AWS_ENDPOINT_URL"]) from None
    except OSError as error:
        raise DataError(source, [f"its local copy cannot be written (XDG_CACHE_HOME?): {one_line(error)}"]) from None


def _fetch(bucket: str, key: str) -> Path:
    """The copy in the cache if it is up to date; otherwise a new one, which replaces all older ones."""
    client = _client("auto")
    if "amazonaws.com" not in client.meta.endpoint_url:
        client = _client("path")  # other servers have no host name for each bucket
    place = hashlib.sha256(f"{client.meta.endpoint_url} {bucket} {key}".encode()).hexdigest()[:24]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tft-pipeline" / "s3" / place
    home.mkdir(parents=True, exist_ok=True)
    suffix = Path(key).suffix
    cached = max(home.glob("etag-*"), key=lambda path: path.stat().st_mtime, default=None)
    known = {"IfNoneMatch": unquote(cached.name.removeprefix("etag-").removesuffix(suffix))} if cached else {}
    try:
        found = client.get_object(Bucket=bucket, Key=key, **known)
    except ClientError as error:
        if cached and error.response["ResponseMetadata"]["HTTPStatusCode"] == 304:
            return cached
        raise
    with tempfile.NamedTemporaryFile(dir=home, prefix="partial-", delete=False) as partial:
        try:
            for chunk in found["Body"].iter_chunks(1 << 20):
                partial.write(chunk)
            partial.close()
            target = home / f"etag-{quote(found['ETag'], safe='')}{suffix}"
            Path(partial.name).replace(target)
        finally:
            Path(partial.name).unlink(missing_ok=True)
    for old in home.glob("etag-*"):
        if old != target:
            old.unlink(missing_ok=True)
    return target


def _client(addressing: str) -> Any:
    """A client set up by the standard AWS variables and files, which gives up after three short attempts."""
    retries = {"mode": "standard", "total_max_attempts": 3}
    options = Config(s3={"addressing_style": addressing}, retries=retries, connect_timeout=5, read_timeout=60)
    return boto3.session.Session().client("s3", config=options)


def _sentence(error: ClientError, bucket: str, key: str) -> str:
    """A sentence on what the server refused, and on what the user can do about it."""
    code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
    if code == "NoSuchBucket":
        return f"there is no bucket {bucket} on this S3 server: check the name and AWS_ENDPOINT_URL"
    if status == 404:
        return f"bucket {bucket} has no key {key}: check data.source"
    if status in (401, 403):
        return (
            f"the S3 server refuses to give out {key} of bucket {bucket} ({code}): check the credentials and the name"
        )
    return f"the S3 server answers {status} ({code}): {one_line(error)}"
