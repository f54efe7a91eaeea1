"""Knows the verbs that may open the docstring of a function."""

import re

_VERBS = """
abandon abort accept account accumulate acknowledge acquire act activate adapt add adjust admit
adopt advance aggregate align allocate allow announce annotate answer append apply approve
archive arrange ask assemble assert assign assume attach attend authenticate authorise average
await balance batch become begin bind blank block book bound bracket break bring broadcast
build bump cache calculate call cancel canonicalise cap capture carry cast catch change charge
check choose clamp classify clean clear clip clone close coerce collapse collect combine
commit compare compile complete compose compress compute concatenate configure confirm connect
consider construct consume contain continue contribute convert coordinate copy correct count
cover create credit cut deallocate decide declare decode decorate decrease decrypt deduct
defer define delay delegate delete deliver dequantise derive describe deserialise destroy
detach detect determine disable discard disconnect discover dispatch display dispose divide
do download drain draw drop dump duplicate embed emit empty enable encode encrypt end enforce
enqueue ensure enter enumerate escape establish estimate evaluate evict examine exchange
exclude execute exit expand expect expire explain export expose express extend extract fail
fetch fill filter finalise find fine-tune finish fire fit fix flag flatten flush focus fold
follow forbid force forget fork form format forward free freeze fuse gather generate get give
go grant group grow guarantee guard guess hand handle hash have heal help hide hold identify
ignore implement import impose include increase increment index infer inherit initialise inject
insert inspect install interpolate interpret interrupt intersect invalidate invert invoke isolate
issue iterate join judge jump keep kill know label launch lay lead learn lease leave lend let
limit link list listen load locate lock log look loop lower make manage map mark mask match
materialise measure meet merge meter migrate mimic minimise mirror mix model modify monitor
mount move multiply name narrow need negate normalise note notice notify number observe obtain
offer omit open operate optimise order organise own pack pad parse partition pass patch pause
perform permit permute persist pick pin place plan play plot point poll pool pop populate post
prefer prefetch prefill prepare prepend preserve press prevent print probe proceed process
produce project promise promote propagate protect prove provide prune publish pull push put
qualify quantise query queue quote raise rank read realise rebalance rebuild receive reclaim
recognise recompute reconcile reconnect record recover reduce refer refill refine refresh
refuse register reject relate relay release reload rely remember remove rename render renew reorder
repeat replace replay replicate reply report represent request require reroute reschedule
rescale reserve reset reshape resize resolve respond restart restore restrict resume retire
retrieve retry return reuse reveal reverse revert revoke reword rewind rewrite rotate round route
run sample satisfy save say scale scan schedule score scrape search see seed select send separate
serialise serve set settle shape share shift shorten show shrink shut sign silence simulate skip
sleep slice solve sort spawn specialise specify spell split spread stack stage stamp start state
stay step stop store stream strip submit subscribe subtract sum summarise supply support suspend
swap switch synchronise sync take tell terminate test throttle throw tie time tokenise touch trace
track train transfer transform translate transpose treat trim truncate try tune turn type
undo unify uninstall unload unlock unpack unpin unwrap update upgrade upload use validate
vary verify vouch wait wake walk want warm warn watch weigh widen withdraw wrap write yield
zero advise
"""
VERBS = frozenset(_VERBS.split())
"""Base forms, in British spelling; American -ize is taken for -ise."""

_NOUN_AFTER = re.compile(r"(?:of|that|which|whose|who|is|are|was|were)\b|[\[({,;:.=]")
_NOUNS_AFTER = re.compile(r"(?:in|with|by|under|between|per|among|at|on|and|or)\b")
"""After a third person or a plural alone: "Stream with usage", but "Streams with usage"."""
_NOUNS = """
account answer average balance batch block book bound cache call cap capture cast change
charge check clip clone count cover credit cut delay drain draw drop dump empty end estimate
exchange exit export extract fill filter fit fix flag flush fold follow form format forward
free group guess hand hash hold import index issue jump label launch lead lease leave limit
link list load lock log look loop map mark mask match measure mirror mix model move name need
note notice number offer open order pack pad pass patch pause pick pin place plan play plot
point poll pool pop post press probe process produce project promise query queue quote rank read
record reply report request reserve rest round route run sample scale scan schedule
score search seed share shape shift sign silence slice sort split spread stack stage stamp start
state step stop store stream strip sum supply support swap switch test time touch trace track
transfer trim turn type use wait walk warm watch wrap yield zero copy
"""
_ALSO_NOUNS = frozenset(_NOUNS.split())
"""Verbs that are as often nouns: the next word tells."""
_TAKE_CLAUSES = frozenset({"check", "note", "record", "report"})
"""Those that are verbs before "that": "Record that a load has failed"."""


def is_verb(text: str) -> bool:
    """Return whether a docstring opens with a verb, in the imperative or the third person.

        An adverb may come first ("Atomically replace ..."). A word that may be a noun counts as one
    where a preposition, a relative or a bracket follows: "Name of the block", "Copies that ...".
    """
    words = text.split(maxsplit=2)
    adverb = bool(words) and words[0].endswith("ly") and words[0].lower() not in VERBS
    if adverb and len(words) > 1 and words[0][0].isupper():
        words = text.split(maxsplit=3)[1:]
    if not words:
        return False
    bare = words[0].rstrip(".,:;").lower()
    base = _base_form(bare)
    if base is None:
        return False
    if base not in _ALSO_NOUNS:
        return True
    if words[0] != words[0].rstrip(".,:;"):
        return bare == base and words[0].endswith(".") and len(words) == 1
    after = words[1] if len(words) > 1 else ""
    if after == "that" and bare == base and base in _TAKE_CLAUSES:
        return True
    return not _NOUN_AFTER.match(after) and not (bare != base and _NOUNS_AFTER.match(after))


def _base_form(word: str) -> str | None:
    for form in (word, re.sub(r"iz(?=e|es$)", "is", word)):
        for base in (form, form.removesuffix("s"), form.removesuffix("es")):
            if base in VERBS:
                return base
        if form.endswith("ies") and form[:-3] + "y" in VERBS:
            return form[:-3] + "y"
    return {"has": "have", "does": "do", "goes": "go"}.get(word)
