"""The English that the guard knows: closed classes and common opposites, as data. Pure.

General words only, written from grammar and dictionaries, never from a data set: whatever is missing here is left to
the strict mode's comparison of content words and to the learned score.
"""


def _groups(text: str) -> dict[str, str]:
    """Every word of a line -> the line's first word."""
    return {word: line.split()[0] for line in text.strip().splitlines() for word in line.split()}


def _pairs(text: str) -> frozenset[tuple[str, str]]:
    """Both directions of every "a/b c/d" pair."""
    split = [tuple(pair.split("/")) for pair in text.split()]
    return frozenset((a, b) for pair in split for a, b in (pair, pair[::-1]))


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _counted(text: str, start: int, step: int = 1) -> dict[str, int]:
    return {word: start + step * number for number, word in enumerate(text.split())}


NEGATIONS = _set(
    "not never no without neither nor none nobody nothing nowhere cannot hardly barely scarcely unable refuse refuses "
    "fail fails failed failing lack lacks lacking"
)
NEGATIVE_PREFIXES = ("un", "in", "im", "ir", "il", "non", "dis", "de", "mis")

OPPOSITES = _pairs(
    """
    on/off up/down in/out before/after above/below over/under inside/outside left/right front/back top/bottom
    maximum/minimum max/min maximize/minimize most/least more/less more/fewer highest/lowest high/low higher/lower
    highest/smallest biggest/smallest largest/smallest bigger/smaller larger/smaller big/small large/small greater/less
    greater/smaller best/worst better/worse good/bad upper/lower major/minor long/short longest/shortest longer/shorter
    fast/slow faster/slower fastest/slowest quick/slow easy/hard easy/difficult simple/complex cheap/expensive
    cheapest/dearest rich/poor strong/weak stronger/weaker hot/cold warm/cool wet/dry heavy/light thick/thin wide/narrow
    deep/shallow tall/short old/new older/newer oldest/newest old/young older/younger earliest/latest early/late
    earlier/later first/last next/last next/previous previous/following past/future ancient/modern permanent/temporary
    enable/disable activate/deactivate start/stop begin/end start/end start/finish open/close opened/closed
    opening/closing open/shut lock/unlock connect/disconnect attach/detach install/uninstall load/unload mount/unmount
    subscribe/unsubscribe follow/unfollow block/unblock mute/unmute zip/unzip pack/unpack wrap/unwrap do/undo
    increase/decrease raise/lower rise/fall grow/shrink gain/lose gain/loss expand/contract extend/shorten
    strengthen/weaken speed/slow accelerate/decelerate inflate/deflate upgrade/downgrade upload/download
    import/export importer/exporter input/output inbound/outbound incoming/outgoing inward/outward internal/external
    interior/exterior domestic/foreign domestic/international local/remote local/global push/pull send/receive
    sender/receiver sender/recipient give/take give/receive borrow/lend borrower/lender buy/sell buyer/seller
    buying/selling purchase/sell deposit/withdraw deposit/withdrawal credit/debit income/expense revenue/cost
    profit/loss asset/liability assets/liabilities surplus/deficit supply/demand bull/bear gross/net
    approve/reject approve/deny accept/reject accept/decline accept/refuse allow/deny allow/forbid allow/block
    allow/prevent permit/forbid permit/prohibit grant/revoke grant/deny include/exclude including/excluding
    included/excluded add/remove add/subtract add/delete insert/remove insert/delete create/delete create/destroy
    save/delete keep/delete keep/discard show/hide reveal/hide visible/hidden public/private published/draft
    publish/unpublish encrypt/decrypt encode/decode compress/decompress compress/extract serialize/deserialize
    compile/decompile assemble/disassemble multiply/divide ascending/descending ascend/descend asc/desc
    forward/backward forwards/backwards clockwise/counterclockwise horizontal/vertical row/column rows/columns
    north/south east/west northern/southern eastern/western win/lose winning/losing winner/loser victory/defeat
    attack/defend offense/defense enter/exit enter/leave arrive/depart arrival/departure come/go join/leave
    hire/fire promote/demote employer/employee teacher/student doctor/patient landlord/tenant
    parent/child father/mother son/daughter brother/sister husband/wife boy/girl boys/girls man/woman men/women
    male/female king/queen uncle/aunt adult/child adult/minor pros/cons pro/con advantage/disadvantage
    advantages/disadvantages benefit/drawback benefits/drawbacks benefits/risks strength/weakness
    strengths/weaknesses positive/negative success/failure succeed/fail pass/fail passed/failed true/false yes/no
    right/wrong correct/incorrect same/different similar/different similarities/differences equal/unequal like/hate
    love/hate like/dislike optimistic/pessimistic happy/sad friend/enemy alive/dead live/die birth/death born/died
    healthy/sick war/peace guilty/innocent legal/illegal safe/dangerous clean/dirty full/empty whole/half all/none
    all/some all/one every/one every/some everyone/nobody always/never always/sometimes often/rarely often/seldom
    frequently/rarely both/neither any/every single/multiple single/double single/married one-way/round-trip
    only/all partial/full partially/fully partly/fully weekday/weekend day/night morning/evening morning/afternoon
    afternoon/evening sunrise/sunset am/pm summer/winter spring/autumn spring/fall indoor/outdoor indoors/outdoors
    online/offline wired/wireless manual/automatic manually/automatically sync/async synchronous/asynchronous
    static/dynamic mutable/immutable read/write reading/writing reader/writer client/server frontend/backend
    serial/parallel source/destination source/target parent/sibling ancestor/descendant master/slave leader/follower
    primary/secondary primary/replica production/staging production/development prod/staging prod/dev stable/beta
    stable/unstable lossy/lossless lose/keep odd/even solid/liquid acid/alkaline singular/plural
    vowel/consonant noun/verb theory/practice theoretical/practical mandatory/optional required/optional
    voluntary/mandatory voluntary/involuntary fixed/variable fixed/floating free/paid active/passive active/inactive
    dependent/independent subjective/objective quantity/quality demand/offer expand/collapse mild/severe acute/chronic
    benign/malignant hyper/hypo cause/effect causes/effects cause/cure causes/symptoms cause/symptom symptoms/treatment
    question/answer problem/solution attend/skip appear/disappear remember/forget sink/float tighten/loosen heat/cool
    freeze/melt freeze/thaw freeze/unfreeze sleep/wake ally/enemy host/guest prosecution/defense plaintiff/defendant
    """
)
PHRASES = (
    (("turn", "on"), "enable"),
    (("turn", "off"), "disable"),
    (("switch", "on"), "enable"),
    (("switch", "off"), "disable"),
    (("turned", "on"), "enable"),
    (("turned", "off"), "disable"),
    (("log", "in"), "login"),
    (("sign", "in"), "login"),
    (("log", "out"), "logout"),
    (("sign", "out"), "logout"),
    (("set", "up"), "setup"),
    (("sign", "up"), "register"),
    (("get", "rid", "of"), "remove"),
    (("find", "out"), "tell"),
    (("at", "least"), "at-least"),
    (("at", "most"), "at-most"),
    (("no", "more", "than"), "at-most"),
    (("no", "less", "than"), "at-least"),
    (("more", "than"), "more-than"),
    (("less", "than"), "less-than"),
    (("fewer", "than"), "less-than"),
    (("up", "to"), "at-most"),
    (("as", "well", "as"), "and"),
    (("yes", "or", "no"), "yes-or-no"),
    (("or", "not"), "whether"),
    (("as", "of"), "as-of"),
)

ONES = _counted(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen",
    start=0,
)
TENS = _counted("twenty thirty forty fifty sixty seventy eighty ninety", start=20, step=10)
SCALES = {"hundred": 100, "thousand": 1_000, "lakh": 100_000, "million": 10**6, "crore": 10**7, "billion": 10**9,
          "trillion": 10**12}  # fmt: skip
ORDINALS = _counted("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth", start=1)
MULTIPLES = {"half": "1/2", "quarter": "1/4", "twice": "x2", "double": "x2", "triple": "x3", "dozen": "12",
             "couple": "2", "once": "x1"}  # fmt: skip

UNITS = _groups(
    """
    kilometre kilometer kilometers kilometres km kms
    metre meter meters metres
    centimetre centimeter centimeters centimetres cm
    millimetre millimeter millimeters millimetres mm
    mile miles mi
    yard yards
    foot feet ft
    inch inches
    kilogram kilograms kg kgs kilo kilos
    gram grams g gm
    milligram milligrams mg
    pound-weight lb lbs
    ounce ounces oz
    tonne tonnes ton tons
    stone
    litre liter liters litres
    millilitre milliliter milliliters millilitres ml
    gallon gallons
    pint pints
    cup cups
    tablespoon tablespoons tbsp
    teaspoon teaspoons tsp
    millisecond milliseconds ms
    second seconds sec secs
    minute minutes mins
    hour hours hr hrs
    day days
    week weeks
    month months
    quarter quarters
    year years yr yrs
    decade decades
    century centuries
    celsius centigrade
    fahrenheit
    kelvin
    byte bytes
    kilobyte kilobytes kb kib
    megabyte megabytes mb mib
    gigabyte gigabytes gb gib
    terabyte terabytes tb tib
    bit bits
    mbps
    gbps
    watt watts
    kilowatt kilowatts kw
    kwh
    volt volts
    amp amps ampere amperes
    joule joules
    calorie calories kcal
    hertz hz
    mhz
    ghz
    percent percentage %
    dollar dollars usd $
    cent cents
    euro euros eur €
    pound pounds gbp sterling £
    yen jpy ¥
    yuan renminbi rmb cny
    rupee rupees inr ₹
    franc francs chf
    peso pesos
    rouble ruble rubles roubles
    krona kronor sek
    bitcoin bitcoins btc
    mph
    kmh
    acre acres
    hectare hectares
    token tokens
    """
)
DAYS = _set("monday tuesday wednesday thursday friday saturday sunday")
MONTHS = _set(
    "january february april june july august september october november december jan feb apr jun jul aug sep sept oct "
    "nov dec"
)
MONTH_OF = {"jan": "january", "feb": "february", "apr": "april", "jun": "june", "jul": "july", "aug": "august",
            "sep": "september", "sept": "september", "oct": "october", "nov": "november",
            "dec": "december"}  # fmt: skip
MOMENTS = _set(
    "today tomorrow yesterday tonight morning noon afternoon evening midnight night weekend weekday christmas easter "
    "thanksgiving ramadan diwali spring summer autumn winter"
)
NEARNESS = {"this": "this", "current": "this", "last": "last", "previous": "last", "past": "last", "next": "next",
            "coming": "next", "upcoming": "next", "following": "next"}  # fmt: skip
PERIODS = _set("day week weekend month quarter year decade century season semester term night hour morning evening")

LANGUAGES = _set(
    "english german french spanish italian portuguese dutch swedish norwegian danish finnish polish czech russian "
    "ukrainian greek turkish arabic hebrew persian farsi hindi urdu bengali tamil telugu marathi punjabi gujarati "
    "chinese mandarin cantonese japanese korean vietnamese thai indonesian malay tagalog swahili latin hungarian "
    "romanian bulgarian croatian serbian catalan welsh irish"
)
FUNCTION_WORDS = {
    "en": _set("the is are what how do does can my to of and in for on with you i it was that this why where when who"),
    "de": _set("der die das ist sind wie was kann ich mein meine nicht und für mit auf ein eine warum wo wann wer zu"),
    "fr": _set(
        "le la les est sont comment que quel quelle puis je mon ma mes ne pas et pour avec dans un une des du où"
    ),
    "es": _set("el la los las es son cómo qué puedo mi mis no y para con en un una por de del dónde cuándo quién se"),
    "it": _set(
        "il lo la gli le è sono come che cosa posso mio mia non e per con in un una di del dove quando chi perché"
    ),
    "pt": _set("o a os as é são como que posso meu minha não e para com em um uma por de do da onde quando quem"),
    "nl": _set("de het een is zijn hoe wat kan ik mijn niet en voor met op waarom waar wanneer wie van naar te"),
}

RELATIONS = _set(
    "above below over under between within beyond before after since until till during earlier later more less fewer "
    "most least at-least at-most more-than less-than only except besides instead unless if because although despite "
    "and or per each every all any some both either whole entire than versus against as-of again still already yet "
    "just even also too exactly about around approximately nearly almost"
)
LENIENT_RELATIONS = _set("any some just also too about and if")
PAST = _set("was were did had used")
PRESENT = _set("is are am do does has have")
FUTURE = _set("will shall going won't")
MUST = _set("must need needs required have-to supposed mandatory")
MAY = _set("can could may might able allowed possible")
SHOULD = _set("should ought recommended advisable")
PERSONS = _groups("he him his himself\nshe her hers herself\nthey them their theirs themselves\nwe us our ours")
ASKER, ASKED = _set("i me my mine myself we us our ours"), _set("you your yours yourself")
QUESTIONS = _set("why when where who whom whose")
AMOUNTS = _set("many much long far old often big large tall high deep fast soon little few heavy hot cold")

DIRECTED = _set("from to into onto than by with without against through via towards toward over under like as out off")
LOOSE = _set("in of for on at about within regarding concerning inside")

FILLER = _set(
    """
    a an the this that these those there here it its itself i me my mine myself you your yours yourself one ones
    we us our ours someone somebody anyone person people's
    is are am be been being was were do does did doing done have has had having will would shall can could may might
    should must need needs required able allowed possible going gonna want wants wanted wanna like please pls plz kindly
    what which how why when where who whom whose whether what's
    hi hello hey dear thanks thank cheers ok okay well so then now just also too really actually basically simply
    tell know meaning means mean meant let say help understand wonder
    wondering looking look trying try get got way ways best exactly about regarding concerning question asking ask
    and or but if because as of in on at for to from by with into onto than
    some any kind sort thing things something anything possible possibly currently
    """
)
COMMANDS = _set("explain describe show give list display answer write provide")
"""Fillers where they open a request, content elsewhere ("reverse a list")."""
UNSPELT = _set("are could did does do had has have is should was were would ai")
"""Before a "nt" whose apostrophe was left out."""
SUBJECTS = _set("what how where who when why that there here it he she let this")
"""After these "'s" is a verb, else a genitive."""
BEFORE_MONTH = _set("in of on since until till by for this last next from to early late mid between during")
BEFORE_UNIT = _set("in per to into from by of")
DETERMINERS = _set("a an the my your our his her their its this that these those some any")
INFINITIVE = _set(
    "how need needs want wants way ways like have has try trying tried going supposed able possible do where when what "
    "best time wish required allowed ought used is"
)
"""After these "to" belongs to a verb and directs nothing."""
SYNONYMS = _groups(
    """
    begin start commence launch
    stop halt
    purchase buy
    fix repair solve resolve
    remove delete erase
    change modify alter edit update
    build make create construct develop
    use utilize employ
    choose select pick
    obtain acquire
    difference differences differ distinguish
    parcel package
    photo picture photograph image pic
    car automobile
    phone telephone cellphone smartphone mobile
    movie film
    job occupation
    firm company corporation business
    chief-executive ceo
    physician doctor
    attorney lawyer
    child kid children kids
    apartment flat
    holiday vacation
    large big huge
    small little tiny
    fast quick quickly rapid rapidly speedy
    hard difficult tough
    wrong incorrect
    correct right
    maximum max
    minimum min
    allow permit
    forbid prohibit ban
    need require
    show display
    sign-in login log-in signin
    logout signout log-out
    cost price
    cheap inexpensive
    pretty beautiful
    error fault
    move migrate shift transfer
    reply respond response
    send sent
    pay paid
    earn earned
    purchase bought
    get got
    live lived reside
    country nation
    u.s usa us america
    uk britain
    email mail e-mail
    website site webpage
    password passcode
    wage salary
    """
)
IRREGULAR = {
    "went": "go", "gone": "go", "sent": "send", "paid": "pay", "made": "make", "bought": "buy", "sold": "sell",
    "took": "take", "taken": "take", "gave": "give", "given": "give", "wrote": "write", "written": "write",
    "spent": "spend", "lost": "lose", "won": "win", "left": "leave", "kept": "keep", "held": "hold", "built": "build",
    "chose": "choose", "chosen": "choose", "broke": "break", "broken": "break", "stolen": "steal", "stole": "steal",
    "men": "man", "women": "woman", "people": "person", "mice": "mouse", "feet": "foot", "teeth": "tooth",
    "children": "child", "ran": "run", "came": "come", "saw": "see", "seen": "see", "found": "find", "felt": "feel",
    "thought": "think", "taught": "teach", "learnt": "learn", "learned": "learn", "began": "begin", "begun": "begin",
    "drove": "drive", "driven": "drive", "ate": "eat", "eaten": "eat", "knew": "know", "known": "know", "died": "die",
    "dying": "die", "lying": "lie", "data": "data", "media": "media",
}  # fmt: skip
