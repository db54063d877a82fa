"""Recognizes complaints of custom endpoints about the body of a probe. They prove that the key was accepted.

The functions take a message in lower case: patterns that ignore the case take several times longer.
"""

import re

# What a custom endpoint complains of when it has accepted the key and looks at the body of the probe.
# ASCII: in a Chinese sentence, names stand between characters without spaces.
_FIELD = re.compile(r"\b(?:max_tokens|messages)\b", re.ASCII)
# Not as a part of a path. OpenRouter calls a model without a provider "no endpoints found for" its id.
_MODEL = re.compile(r"(?<!-)\bmodels?\b(?!(?:\.[\w-]+){2})|模型|\bno endpoints found\b", re.ASCII)
# How providers complain of a field: it is missing, or its value is wrong. A sentence that only names one does not count.
_COMPLAINT = re.compile(
    r"\brequired\b|missing|\bmust\b|should (?:be|have)|at (?:least|most)|(?:greater|less) than|minimum|maximum|too long|length"
    r"|\b(?:in)?valid|expected|unknown|unsupported|(?:not|isn't) supported|(?:not|n't) (?:exist|found|set|provided|specified|a\b|of type)"
    r"|no such|unrecogni[sz]ed|incorrect|malformed|mismatch|\bnull\b|\bempty\b|parse|deserial|cannot be|can't be|provide|specify"
    r"|deprecated|discontinued|no longer (?:supported|available)|permitted|mandatory|has to be (?:an?|at|greater)\b|out of range"
    r"|parameter is illegal|too (?:small|large|short)\b|not (?:present|optional|in the list)|(?:cannot|can't|could not|couldn't) find"
    r"|no endpoints found|but you passed|不能为空|缺少|必须|必填|不存在|不支持|未知的?模型|无效的?(?:模型|参数)|参数(?:非法|有误|错误)"
    r"|未(?:正常)?(?:接收|收)到|未(?:提供|指定|填写)",
)
# A sentence about the key, a header, the account, a block or an outage is not a complaint about the body.
_NOT_ABOUT_BODY = re.compile(
    r"api[ _-]?key|(?:this|your|the|invalid|virtual|wrong|incorrect|expired|disabled|revoked|proxy) key|credential"
    r"|authentic|authoriz|unauthori|permission|forbidden|access denied|denied access|\btoken\b|bearer|log ?in\b|sign ?in\b"
    r"|account|subscription|entitle|suspended|deactivated|\bheaders?\b|blocked|firewall|malicious|guardrail|security"
    r"|region|country|\bip\b|overload|unavailable|temporar|try again|capacity|timed? ?out|rate limit|too many"
    r"|\bbanned\b|\bpaid\b|\bplan\b|upgrade|quota|certificate|offline|online|\bloading\b|maintenance|configur|upstream"
    r"|\bpolicy\b|\bterms\b|agreement|\bverif(?:y|ied)\b|\bload(?:ed)?\b|connect"
    r"|access[ _-]?key|\b(?:tenant|customer|signature|backend|worker|route|url)\b"
    r"|令牌|密[钥匙]|秘钥|金[钥鑰]|凭[证据]|签名|权|權|[账帐帳][户号戶號]|用户|租户|分组|渠道|登[录陆]|认证|白名单|拦截|防火墙|内部错误|繁忙"
    r"|负载|重试|稍后|超时|维护|升级|套餐|地区|响应|回复|返回|(?<![a-z])key(?![a-z])(?=[^\x00-\x7f])|(?<=[^\x00-\x7f])key(?![a-z])",
    re.ASCII,
)
_PATH = re.compile(r"(?<![\w.-])(?:[a-z]+:/)?/[\w/.:?=&%~{}-]*", re.ASCII)
# LiteLLM ends its complaint about a model with where to look, for a key that it accepted.
_HINT = "view available models for your key"


def names_field(message: str) -> bool:
    """Whether a sentence names a field that the body of the probe lacks or has: `max_tokens` or `messages`."""
    return _FIELD.search(_PATH.sub("", message)) is not None


def names_model(message: str) -> bool:
    """Whether a sentence names the model."""
    return _MODEL.search(_PATH.sub("", message)) is not None


def is_complaint(message: str) -> bool:
    """Whether a sentence complains of the form of a request, and not of a key or an outage."""
    return (
        _COMPLAINT.search(message) is not None and _NOT_ABOUT_BODY.search(message.replace(_HINT, "")) is None
    )
