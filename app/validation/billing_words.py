"""How providers say that there is no money: types and codes first, then prose. Data, with the source of each entry.

`BYOK_PROVIDER__MESSAGE_PATTERNS` adds words and codes, also per host (`app.validation.message_patterns`).
"""

import re
from collections.abc import Set as AbstractSet

from app.validation.message_patterns import is_same_or_subdomain

# Values of `type`, `code`, `status` or `reason` in an error object or beside it. Case, `-` and spaces are ignored.
CODES = frozenset(
    {
        "billing_error",  # Anthropic, platform.claude.com, errors
        "billing_not_active",  # OpenAI, error codes
        "billing_hard_limit_reached",  # OpenAI, error codes
        "insufficient_quota",  # OpenAI, error codes; Groq, Perplexity and others copy it
        "exceeded_current_quota_error",  # Moonshot (Kimi), platform.moonshot.ai, error codes
        "insufficient_user_quota",  # new-api and one-api, open-source gateways
        "pre_consume_token_quota_failed",  # new-api
        "insufficient_balance",  # DeepSeek and others
        "insufficient_balance_error",  # MiniMax, platform.minimax.io, Anthropic-compatible errors
        "not_enough_balance",  # Novita, error codes
        "insufficient_credits",  # OpenRouter and others
        "insufficient_credit",
        "insufficient_funds",  # Vercel AI Gateway
        "payment_required",  # Vercel AI Gateway, Together and others
        "402",  # OpenRouter and others repeat the status as `code`, also inside a 200
        "billing_disabled",  # Google Cloud, ErrorInfo reasons
        "billing_not_enabled",  # Google Cloud
        "invalid_payment_instrument",  # Amazon Bedrock, model access
        "arrearage",  # Alibaba Model Studio, error codes
        "prepaidbilloverdue",  # Alibaba Model Studio
        "postpaidbilloverdue",  # Alibaba Model Studio
        "commoditynotpurchased",  # Alibaba Model Studio
        "allocationquota.freetieronly",  # Alibaba Model Studio
        "accountoverdueerror",  # Volcengine Ark, error codes
        "account_overdue",  # Baidu Qianfan
        "budget_exceeded",  # LiteLLM proxy, virtual keys
        "exceededbudget",  # LiteLLM proxy
        "budget_limit_exceeded",
        "customer_verification_required",  # Vercel AI Gateway: a valid card is needed
        "credit_balance_too_low",
        "credit_limit_exceeded",
        "quota_not_enough",
        "out_of_credits",
        "no_credits",
        "spend_limit_reached",
        "spend_limit_exceeded",
        "spending_limit_reached",
        "spending_limit_exceeded",
    }
)

# Codes of other providers, by the words in them. A budget of tokens or of time, and a load balancer, are not about money.
# Anthropic's codes for spend limits have separate rows.
_MONEY = r"(?:(?<!load)(?<!load_)balance|credits?|funds?|wallet)"
# A budget of tokens, time, retries or errors is not about money.
_WHOSE = r"(?:(?:max|monthly|weekly|daily|team|user|key|org|organization|project|account|customer|provider|model|spend|cost|credit)_?)*"
_CODE = re.compile(
    rf"insufficient_?(?:(?:user_|team_|key_)?quota|(?:\w+_)?{_MONEY})|{_MONEY}_(?:\w+_)?(?:insufficient|exhausted|depleted|expired|exceeded|negative)"
    rf"|{_MONEY}_(?:is_)?(?:not_?enough|too_?low|limit)|(?:^|_)(?:no|out_of|low|negative|zero|not_enough)_(?:\w+_)?{_MONEY}$"
    r"|(?<!enforced_)(?<!contract_)(?<!organization_)(?:spend|spending|cost)_?(?:limit|cap)(?![a-z])"
    rf"|(?:^|_)(?:exceeded|over)_?{_WHOSE}budget|^{_WHOSE}budget_?(?:limit|exceeded|exhausted|reached)"
    r"|arrears|delinquent|(?:payment|invoice|bill|balance|account)_?(?:is_)?overdue|overdue_?(?:payment|invoice|bill|balance|account)|unpaid"
    r"|payment_?(?:required|failed|declined|method)|(?:^|_)(?:card|credit_?card)_?(?:required|declined)"
    r"|billing_(?:required|hold|limit|problem|issue|inactive|suspended)|trial_(?:expired|ended)|free_(?:quota|tier)_exhausted"
)
# Every alternative above has one of these in it. Most codes have none.
_CODE_STEMS = re.compile(
    r"balance|credit|fund|wallet|quota|spend|cost|budget|arrear|delinq|overdue|unpaid|pay|card|bill|trial"
)
_OUTAGE_OF_BILLING = re.compile(r"unavailable|timeout|internal")

# Codes that are only numbers mean something only at their host: host name -> codes. Subdomains count.
CODES_OF_HOST: dict[str, frozenset[str]] = {
    "z.ai": frozenset({"1113"}),  # docs.z.ai, error codes: account in arrears
    "bigmodel.cn": frozenset({"1113"}),
    "minimax.io": frozenset({"1008"}),  # platform.minimax.io, error codes: insufficient balance
    "minimaxi.com": frozenset({"1008"}),
    "siliconflow.cn": frozenset({"30001"}),  # docs.siliconflow.cn, error codes: insufficient balance
    "siliconflow.com": frozenset({"30001"}),
}

# These speak only of money, so they count with every status and beside words about rates.
_CERTAIN = (
    r"credit balance(?: is)? too low",
    r"insufficient (?:\w+ )?(?:balance|credits?|funds?)",
    r"(?:not enough|low|negative|zero) (?:account |credit )?(?:balance|funds)",
    r"(?:do not|don't|does not|doesn't) have (?:enough|sufficient) (?:\w+ )?(?:balance|credits?|funds?)",
    r"(?:account |wallet |credit |prepaid |your )balance (?:is )?(?:too low|insufficient|not enough|exhausted|depleted|negative|0(?:[.,]0+)?(?![.,]?\d))",
    r"balance (?:is )?(?:too low|insufficient|not (?:enough|sufficient))",
    r"non-?payment",
    r"delinquent",
    r"in arrears",
    r"payment required",
    # Anthropic's own sentences, seen as 400 and 429 without a code.
    r"you have reached your (?:specified )?(?:workspace )?api usage limits",
    r"crossed its monthly api usage threshold",
)
# An outage of the provider's billing system or a rate limit may use these words too. So they do not count with a 5xx, or beside a limit per unit of time.
_PROBABLE = (
    r"insufficient (?:\w+ ){0,2}quota",
    r"(?:not enough|no|any|out of|more|additional|purchase|buy|load|low on|lack of) (?:\w+ )?credits",
    r"credits? (?:\w+ ){0,3}(?:exhausted|depleted|used up|run out|ran out|expired)",
    r"credit (?:card(?! numbers?| details?| data)|limit)",
    r"card was declined",
    r"add (?:more )?funds",
    r"r[ua]n out of (?:\w+ )?(?:balance|funds)",
    r"(?:limit|cap|allowance) of \$ ?\d[\d.,]*",
    r"recharge",
    r"top[- ]?up",
    r"(?:payment|invoice|bill|balance|account)s? (?:is |are )?(?:over|past[- ])due",
    r"(?:overdue|unpaid|outstanding|past[- ]due|past) (?:payment|invoice|bill|balance)s?",
    r"(?:account is|in) (?:not in )?good standing",
    r"(?<!error )(?<!retry )(?<!time )(?<!token )(?<!latency )(?<!thinking )(?<!tokens )budget (?:\w+ ){0,6}(?:exceeded|exhausted|reached)",
    r"(?:exceeded|over) (?:your |the )?(?!error |retry |time |token |latency |thinking )(?:\w+ )?budget",
    # LiteLLM writes ExceededTokenBudget and "Max Budget".
    r"exceeded\w*budget",
    r"max(?:imum)? budget(?: for \w+)?:",
    r"billing (?:details|cycle|period|issue|problem|limit|hard limit|account|information|settings)",
    r"dunning",
    r"billing (?:to be|must be|is not|not) enabled",
    r"payment (?:method|failed|instrument)",
    r"(?:spend|spending|cost) (?:limit|cap)",
    r"exceeded your current quota",
    r"key limit exceeded",
    r"free (?:tier|quota|trial) (?:\w+ ){0,6}(?:exhausted|expired|used up)",
    r"trial (?:\w+ ){0,3}(?:ended|expired)",
    r"(?:purchase|buy) (?:more|additional)",
)


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile(r"(?<![\w-])(?:" + "|".join(patterns) + r")(?![\w-])")


_CERTAIN_PROSE = _any_of(*_CERTAIN)
_PROBABLE_PROSE = _any_of(*_PROBABLE)
# Chinese has no spaces between words: balance, allowance or points insufficient, used up, cost limit, in arrears, recharge.
_CHINESE = re.compile(
    "余额不足|餘額不足|余额已用尽|余额为0(?![.]?[0-9])|额度不足|額度不足|额度已?用[尽完]|积分不足|费用限制|超出预算|欠费|欠費|请充值|請充值|充值后"
)
_RATE = re.compile(
    r"rate[ _-]?limit|(?:per|/)[ _-]?(?:second|minute|hour|min\b|sec\b)|too many requests|concurren(?:cy|t)\b|\b(?:rpm|tpm|rps|qps)\b|requests?[ _-]per"
    r"|(?:retry|try again) (?:in|after) \d"
)
_CHINESE_RATE = re.compile("分钟|秒|小时|频率|并发|速率")
# Every pattern has one of these in it. Most sentences have none, and are decided at a tenth of the cost.
_STEMS = (
    *("credit", "balance", "fund", "quota", "recharge", "top-up", "top up", "topup", "arrear", "due", "standing"),
    *("budget", "bill", "payment", "spend", "cost ", "limit", "free ", "threshold", "unpaid", "invoice"),
    *("declined", "delinquent", "dunning", "trial ", "purchase more", "purchase additional", "buy ", "of $"),
)  # fmt: skip


def speaks_of_billing(prose: str, *, is_server_error: bool = False) -> bool:
    """Whether a sentence of a provider says that there is no money."""
    if not prose.isascii() and _CHINESE.search(prose) and not _CHINESE_RATE.search(prose):
        return True
    lower = prose.casefold()
    for stem in _STEMS:
        if stem in lower:
            break
    else:
        return False
    plain = _without_names(lower)
    if _CERTAIN_PROSE.search(plain):
        return True
    return not is_server_error and bool(_PROBABLE_PROSE.search(plain)) and not _speaks_of_rates(lower)


def has_billing_code(codes: AbstractSet[str], host: str | None) -> bool:
    """Whether one of the types and codes of an error says that there is no money. They are in lower case."""
    if not codes.isdisjoint(CODES):
        return True
    for code in codes:
        if code.isdecimal():
            if host is not None and _is_code_of_host(code, host):
                return True
        elif _CODE_STEMS.search(code) is not None and _is_code_of_money(code):
            return True
    return False


def _is_code_of_money(code: str) -> bool:
    normal = code.replace("-", "_").replace(" ", "_")
    return normal in CODES or (_CODE.search(normal) is not None and _OUTAGE_OF_BILLING.search(normal) is None)


def _is_code_of_host(code: str, host: str) -> bool:
    return any(code in codes and is_same_or_subdomain(host, name) for name, codes in CODES_OF_HOST.items())


def _without_names(prose: str) -> str:
    """Drop `quoted` text and words that may be the name of a model, a field or a page."""
    pieces = prose.split("`")
    unquoted = " ".join(pieces[::2]) if len(pieces) % 2 else prose
    return " ".join(word for word in unquoted.split() if not _is_name(word))


def _is_name(word: str) -> bool:
    return "_" in word or "/" in word or ("-" in word and any(char.isdigit() for char in word))


def _speaks_of_rates(prose: str) -> bool:
    return bool(_RATE.search(" ".join(word for word in prose.split() if "://" not in word)))
