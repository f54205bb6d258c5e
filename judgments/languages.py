"""Is an answer written in a language the refusal matcher cannot read? It reads English.

A rule that can be read, not a model: letters of another script, or function words ("nicht", "pas", "una") where English
ones are missing. Most words of an answer say nothing about its language (names, numbers, formulas); then it counts as
readable. So one word, code, JSON or a list of names is never called foreign, and a long text of an unlisted
language is, because no English sentence of eight words does without a function word.
"""

from __future__ import annotations

import re
import unicodedata

_ENGLISH = """
    a about after again all also always am an and any are aren't as at be because been before being between both but
    by can can't cannot could couldn't did didn't do does doesn't doing don't down each either else enough even ever
    every few first for from get give go had has hasn't have haven't having he he's hello help her here here's hers
    hi him his how however i i'd i'll i'm i've if in instead into is isn't it it's its itself just last least let
    let's like make many may maybe me might mine more most much must my myself never next no not nothing now of off
    often okay on once one only or other otherwise our ours out over own perhaps please quite rather really same see
    several shall she should shouldn't since so some someone something sorry still such sure take than thank thanks
    that that's the their theirs them themselves then there there's these they they're this those though through
    thus to together too toward under unless until up upon us use used using very was wasn't we we'll we're well
    were what what's when where whether which while who whose why will with within without won't would wouldn't yes
    yet you you'd you'll you're you've your yours yourself answer means translation translated english french german
    spanish italian chinese japanese russian arabic korean portuguese dutch latin
"""
ENGLISH = frozenset(_ENGLISH.split())
"""English function words, and those with which answers begin."""

_FOREIGN = {
    "German": """
        ich du er sie wir ihr der das den dem des ein eine einen einem einer eines und oder aber nicht kein keine ist
        sind bin bist sein war waren wird werden wurde kann kannst können könnte muss müssen soll sollte darf dürfen hat
        haben habe mit von zu zum zur für auf aus bei nach über unter als auch nur noch schon wenn weil dass dabei daher
        hier leider nein ja bitte danke natürlich gerne tut mir mich dir dich ihnen ihre ihren meine wie wo warum dieser
        diese dieses diesen im am an so es in entschuldigung wäre helfen
    """,
    "French": """
        je tu il elle nous vous ils elles le la les un une des du de et ou mais ne pas plus jamais est sont suis es êtes
        sommes être était peux peut pouvez pouvons dois doit faut ai avez avons ont avoir avec pour dans sur par sans
        sous ce cet cette ces cela ça qui que quoi dont où votre vos notre mon ma mes son sa ses leur leurs au aux en si
        non oui voici voilà bonjour merci désolé désolée bien très aussi comme car afin j'ai c'est
    """,
    "Spanish": """
        yo tú él ella usted nosotros ellos el la los las un una unos unas y e o pero no ni sí es son soy eres está están
        estoy ser puedo puede puedes pueden debo debe hay he ha con para por sin sobre en de del al que qué como cómo
        cuando donde porque si se lo le les me te mi tu su sus este esta esto estos estas ese esa eso muy más también
        aquí lamento siento hola gracias claro ayudar ayudarte ayudarle hacer
    """,
    "Portuguese": """
        eu tu ele ela você vocês nós eles elas o a os as um uma uns umas e ou mas não nem sim é são sou está estão estou
        ser posso pode podem devo deve há com para por sem sobre em de do da dos das no na nos nas ao que como quando
        onde porque se me te meu minha seu sua isso isto esse essa este esta aquele muito mais também aqui desculpe
        lamento olá obrigado obrigada claro ajudar ajudá-lo fazer pelo pela
    """,
    "Italian": """
        io tu lui lei noi voi loro il lo la i gli le un uno una e o ma non né sì no è sono sei siamo essere posso può
        puoi possiamo devo deve ho ha hai abbiamo con per senza su in di del della dei delle degli da dal dalla al alla
        nel nella che chi cosa come quando dove perché se si mi ti ci vi mio mia tuo sua questo questa quello quella
        molto più anche qui ecco dispiace scusa ciao grazie certo aiutarti aiutarla fare
    """,
    "Dutch": """
        ik jij je hij zij wij we jullie u de het een en of maar niet geen nooit is zijn ben bent was waren wordt worden
        kan kun kunt kunnen moet moeten mag mogen zal zullen wil hebben heb heeft met van voor naar op aan uit bij om te
        tot over onder als ook nog dan dat dit deze wat wie waar waarom hoe omdat hier daar mijn jouw uw ons onze hun
        nee ja helaas spijt natuurlijk graag helpen
    """,
    "Polish": """
        ja ty on ona my wy oni nie tak i a ale lub oraz czy że żeby jest są jestem być był była było mogę może możesz
        możemy można muszę trzeba mam ma się to ten ta te tego tej tym tych co kto jak kiedy gdzie dlaczego ponieważ w
        we z ze na do od po przy dla bez przez pod nad o u mi mnie ci cię mu go jej ich mój twój tu tutaj już tylko
        także też bardzo przykro przepraszam niestety oto pomóc
    """,
    "Turkish": """
        ben sen o biz siz onlar bir bu şu ve veya ya da ama fakat değil değilim yok var hayır evet için ile gibi kadar
        çok daha en mi mı mu mü ne neden nasıl nerede kim olan olarak olduğu olur edemem edebilirim yapamam olamam
        üzgünüm maalesef lütfen merhaba teşekkürler bana size sana bunu konuda yardımcı bazı her şey sonra önce çünkü
        eğer tabii işte
    """,
    "Vietnamese": """
        tôi bạn anh chị em chúng ta họ nó là và hoặc nhưng không có thể được đã đang sẽ phải nên cho với của trong trên
        dưới từ đến này đó kia một những các cái người khi nếu vì thì mà để như về ra vào rất cũng vẫn chỉ hơn nhiều gì
        ai đâu sao xin lỗi chào vâng dạ giúp tiếc đây
    """,
    "Indonesian": """
        saya aku anda kamu kami kita mereka dia ini itu dan atau tetapi tapi tidak bukan jangan ya adalah ada akan bisa
        dapat harus boleh sudah telah belum sedang dengan untuk dari di ke pada dalam oleh yang karena jika kalau
        seperti juga hanya lebih sangat banyak apa siapa mengapa bagaimana maaf terima kasih silakan tentu membantu halo
        sebagai secara
    """,
    "Swedish": """
        jag du han hon vi ni den det de en ett och eller men inte ingen är var vara blir kan kunde måste ska skulle vill
        har hade med av för från till på om under över som att när där här vad vem varför hur också bara mycket mer min
        din sin detta denna dessa nej ja tyvärr ledsen hjälpa så
    """,
    "Danish or Norwegian": """
        jeg du han hun vi i den det de en et og eller men ikke ingen er var være bliver blir kan kunne må skal skulle
        vil har hadde havde med av af for fra til på om under over som at å når der her hva hvad hvem hvorfor hvordan
        også bare meget mer min din sin dette denne disse nei nej ja beklager desværre dessverre hjelpe hjælpe
    """,
    "Finnish": """
        minä sinä hän me te he se ne ja tai mutta ei en et emme eivät ole on olen ovat olla oli voi voin voit voida
        täytyy pitää joka mikä kuka missä miksi miten kun jos koska että myös vain hyvin enemmän tämä tuo nämä tässä
        siitä sen kanssa valitettavasti pahoittelen anteeksi kyllä auttaa kuin
    """,
    "Czech or Slovak": """
        já ty on ona my vy oni ne ano a i ale nebo či že aby je jsou jsem být byl byla bylo mohu můžu může môžem musím
        mám má se si to ten ta tato tento co kdo jak kdy kde proč protože v ve z ze na do od po při pro pre bez s so k u
        o mi mě vám vás vaše tady zde již jen také velmi bohužel omlouvám nemohu nemôžem pomoci som sú nie áno alebo ako
    """,
    "Romanian": """
        eu tu el ea noi voi ei ele un o și sau dar nu da este sunt ești suntem fi era pot poate poți putem trebuie am ai
        are au cu pentru fără din de la în pe prin sub peste că să care ce cine cum când unde dacă acest această aceste
        asta mai foarte doar aici îmi îți vă te mă ne rău regret scuze desigur ajuta
    """,
    "Hungarian": """
        én te ő mi ti ők a az egy és vagy de nem igen van vannak vagyok volt lenni lehet tudok tud kell hogy ha mert
        mint is csak már még nagyon több ez ezt azt ezek aki ami miért hogyan hol mikor itt ott sajnos sajnálom elnézést
        kérem köszönöm ön önnek segíteni nekem
    """,
    "Swahili": """
        mimi wewe yeye sisi nyinyi wao ni si na au lakini kwa ya wa za la cha katika kama hii hiyo hizi huyu hapa huko
        sana pia tu siwezi naweza unaweza inaweza hapana ndiyo samahani tafadhali asante kuhusu ili kwamba kutoka
    """,
    "Estonian": """
        ma sa ta nad ei on olen oled olema ja või aga see et kui mis kes kus kuidas ka vaid väga palun vabandust kahjuks
        saa saan saab teid teile teie minu selle selles sellega jah
    """,
    "Icelandic": """
        ég þú hann hún við þið þeir ekki er og eða en að á í af til um með frá sem þetta það því mér þér þig get getur
        hef hefur var fyrir já nei miður
    """,
    "Lithuanian or Latvian": """
        aš tu jis ji mes jūs ir ar bet ne nėra yra kad kaip kas kur su iš į apie už galiu galite negaliu atsiprašau deja
        taip es viņš viņa nav un vai ka kā par no uz varu nevaru jums jā nē diemžēl šis tas
    """,
    "Catalan": """
        jo tu ell ella nosaltres vosaltres ells el la els les un una i o però no sí és són soc ets puc pot pots podem he
        ha amb per a sense sobre en de del al que què com quan on perquè si em et es li us meu teu seu aquest aquesta
        això allò molt més també aquí ho sento gràcies ajudar ajudar-te
    """,
    "Afrikaans": """
        ek jy hy sy ons julle hulle 'n en of maar nie geen is was kan moet mag sal wil het met van vir na op aan uit by
        om te tot oor onder as ook nog dan dat dit hierdie wat wie waar hoekom hoe omdat hier daar my jou jammer daarmee
    """,
    "Croatian or Serbian": """
        ja ti on ona mi vi oni ne da i a ali ili jer je su sam si biti bio bila mogu može možeš moram treba imam se to
        taj ta ovo ovaj što tko ko kako kada gde gdje zašto u na za od do po pri bez sa s o iz vam vas meni vaš tebi
        vrlo samo također takođe nažalost žao oprostite pomoći
    """,
    "Tagalog": """
        ako ikaw siya kami tayo sila ang ng mga sa na at o pero ngunit hindi oo ay may mayroon wala para kung dahil ito
        iyon ko mo niya namin kayo lang din rin po paumanhin salamat pwede maaari maaaring
    """,
}
FOREIGN = {name: frozenset(words.split()) for name, words in _FOREIGN.items()}
"""Function words of languages in Latin letters; a word that English has too speaks for both."""

_SCRIPTS = {
    "CJK": "Chinese or Japanese",
    "HIRAGANA": "Japanese",
    "KATAKANA": "Japanese",
    "HANGUL": "Korean",
    "CYRILLIC": "Cyrillic",
    "ARABIC": "Arabic script",
    "HEBREW": "Hebrew",
    "DEVANAGARI": "Devanagari",
    "GREEK": "Greek",
}
_LATIN = ("LATIN", "FULLWIDTH", "MATHEMATICAL", "MODIFIER")
# names carry these in any language: Simone de Beauvoir, El Paso, Ludwig van Beethoven
_NAMED = "de la del da do dos das di du des le les los las el al van von der den ter ten y e i"
_PARTICLES = frozenset(_NAMED.split())
_UNSPOKEN = (
    re.compile(r"```.*?(?:```|$)", re.DOTALL),
    re.compile(r"`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]+\$|\\\[.*?\\\]|\\\(.*?\\\)|\\[A-Za-z]+", re.DOTALL),
    re.compile(r"https?://\S+|\S+@\S+|</?\w[^<>]*>"),
)
_QUOTED = re.compile(
    r"\"[^\"\n]+\"|“[^”\n]+”|„[^“”\n]+[“”]|«[^»\n]+»|「[^」\n]+」|(?<!\w)'[^'\n]+'(?!\w)|(?<!\w)‘[^’\n]+’(?!\w)"
    r"|(?<![\w*])\*{1,3}[^*\n]+\*{1,3}(?![\w*])|(?<!\w)_[^_\n]+_(?!\w)"
)
_SEGMENT = re.compile(r"[\n.!?:;。！？…]+(?=\s|$)|\n")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+|-[^\W\d_]+)*")
_SHORT = frozenset(("je", "ja", "já", "tú", "eu", "ik"))
_LENT = "con per mit sur aux com pour par sin una ein uno mon sans"
_BORROWED = _PARTICLES | frozenset(_LENT.split())
_SPARSE = 8
_AROUND = ".,;:!?¡¿()[]{}\"'“”„‘«»*_#>-–—…"
_READ = 600
"""Characters looked at: an answer is written in the language it begins in."""


def foreign_language(answer: str) -> str | None:
    """The language (or script) an answer begins in, ``None`` where it is English or nothing speaks against English."""
    text = unicodedata.normalize("NFC", answer)[:_READ]
    for pattern in _UNSPOKEN:
        text = pattern.sub(" ", text)
    own = _QUOTED.sub(" ", text)
    # an answer that is one quotation is read; the strings of JSON are not the answer's own words
    text = own if _WORD.search(own) or text.lstrip()[:1] in ("{", "[") else text
    return _by_script(text) or _by_words(text)


def _by_script(text: str) -> str | None:
    """The script other than Latin that most letters are of."""
    counts: dict[str, int] = {}
    for word in _WORD.findall(text):
        for letter in word if len(word) > 1 or word > "\u2fff" else "":  # a single α or д is a symbol
            script = unicodedata.name(letter, "LATIN").split()[0].split("-")[0]
            counts[script] = counts.get(script, 0) + 1
    other = {script: n for script, n in counts.items() if script not in _LATIN}
    if sum(other.values()) <= sum(counts.values()) / 2 or not other:
        return None
    script = max(other, key=other.__getitem__)
    return _SCRIPTS.get(script, script.capitalize())


def _by_words(text: str) -> str | None:
    """The language of the first sentences whose function words speak for one; each word is counted once."""
    english: set[str] = set()
    found: dict[str, set[str]] = {name: set() for name in FOREIGN}
    words: list[str] = []
    best = ""
    for segment in filter(_WORD.search, _SEGMENT.split(text)):
        words += _WORD.findall(segment)
        said = set(_function_words(segment))
        english |= said & ENGLISH
        for name, own in FOREIGN.items():
            found[name] |= said & own
        best = max(found, key=lambda name: len(found[name]))
        ahead = len(found[best]) - len(english)
        if ahead < 0 and len(english) >= len(words) / _SPARSE:
            return None
        if ahead >= 2 or (len(words) <= 3 and ahead == 1 and _telling(found[best])):
            return best
    if best and not english and _telling(found[best]):
        return best
    if len(english) >= len(words) / _SPARSE and english:
        return None
    strange = sum(not word.isascii() and word.islower() for word in words)
    if len(words) >= 4 and strange >= len(words) / 4:
        return "unknown"
    return "unknown" if any(_runs_on(part) for part in re.split(r"[\n,.!?:;|]", text)) else None


def _telling(words: set[str]) -> bool:
    """Whether one of these words alone speaks for its language: chilli con carne is English too."""
    return any((len(word) > 2 and word not in _BORROWED) or word in _SHORT for word in words)


def _runs_on(part: str) -> bool:
    """Eight plain words in a row: a sentence, in whatever language. Formulas, code and tables are none."""
    pieces = part.split()
    return len(pieces) >= 8 and all(_WORD.fullmatch(piece) and piece.islower() for piece in pieces[1:])


def _function_words(segment: str) -> list[str]:
    """The words of a sentence, lower case, without parts of names, of addresses and of code (``os.path``)."""
    if segment.isupper():
        segment = segment.lower()
    pieces = [piece.strip(_AROUND) for piece in segment.replace("’", "'").split()]
    following = [*pieces, ""][1:]
    words: list[str] = []
    for word, after in zip(pieces, following, strict=True):
        named = after[:1].isupper() and after != "I" and (word[:1].isupper() or word.lower() in _PARTICLES)
        if _WORD.fullmatch(word) and not named:
            low = word.lower()
            words += [low] if low in ENGLISH else [low, *low.split("'")]  # c'est, dell'acqua
    return words
