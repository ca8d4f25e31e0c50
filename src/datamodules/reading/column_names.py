"""How the columns of each role are usually named, in ten languages."""

import re
import unicodedata
from dataclasses import fields

from segue.datamodules.reading.table_settings import Columns

_USUAL_NAMES = {
    "user": "user userid uid username listener listenerid msno account",
    "timestamp": "timestamp ts listenedat playedat uts unixtime datetime utctime createdat date starttime time",
    "track": "trackid itemid songid spotifytrackuri trackuri recordingmbid trackmbid track item song",
    "title": "title trackname songname tracktitle songtitle mastermetadatatrackname recordingname "
    "trackmetadatatrackname song track name",
    "artist": "artist artistname artists artistnames mastermetadataalbumartistname artistcreditname "
    "trackmetadataartistname performer artistid",
    "played_ratio": "playedratio playratio playedratiopct listenratio percentplayed completion share shareplayed",
    "played": "msplayed playedms secondsplayed playedseconds played playtime listentime secondslistened listened",
    "duration": "durationms duration trackduration tracklengthseconds tracklength durationsec length dur "
    "trackmetadataadditionalinfodurationms songlength",
    "skipped": "skipped isskipped skip",
    "session": "session sessionid playlistid pid playlist",
}
_ENDS = (
    "endtime endedat endat end finishedat finished stoppedat stoppedtime completedat ende endzeit beendetam fin "
    "heurefin horafin fim horafim fine orafine koniec bitis bitiszamani конец shuryo shuryojikan"
)
_OTHER_NAMES = {
    "user": (
        "customerid customer memberid member profileid profile person who accountid benutzer nutzer nutzerid horer "
        "hoererin hoerer kunde kundenid utilisateur auditeur abonne usuario oyente cliente usuaria ouvinte utente "
        "ascoltatore utilizzatore polzovatel slushatel пользователь слушатель пользовательid uzytkownik sluchacz "
        "kullanici dinleyici uye yuza yuzaa riyosha riyousha choshusha"
    ),
    "timestamp": (
        "startedat started start startat playstart starttimestamp begin beginat beganat eventtime eventdate "
        "eventtimestamp playdate playdatetime playtimestamp dateplayed timeplayed scrobbledat scrobbletime listentime "
        "listendate heardat streamedat streamdate loggedat occurredat recordedat timestamputc timeutc dateutc "
        "datetimeutc timestampms timestamps epoch epochms unix unixts localtime when "
        "zeitpunkt zeit zeitstempel datum datumzeit datumuhrzeit abgespieltam gehortam gespieltam beginn startzeit "
        "wann horodatage horodate dateheure dateetheure heure jouele ecoutele dateecoute datedecoute debut quand "
        "fecha fechahora fechayhora hora marcadetiempo reproducidoel escuchadoel inicio cuando data datahora "
        "dataehora dataehorario datadereproducao tocadoem ouvidoem reproduzidoem quando carimbo dataora dataeora "
        "orario ora riprodottoil ascoltatoil inizio дата времени время датаивремя датавремя когда прослушано начало "
        "dataivremya vremya nachalo dataczas dataigodzina czas godzina odtworzono odsluchano poczatek kiedy tarih "
        "zaman tarihsaat tarihvesaat saat calinmatarihi dinlemetarihi dinlenme baslangic nezaman nichiji hizuke "
        "jikoku saiseinichiji saiseibi kaishi kaishijikan uhrzeit timeofday " + _ENDS
    ),
    "track": (
        "trackuri uri spotifyuri titleurl trackurl songurl videourl videoid isrc titelid liedid stuckid pisteid "
        "morceauid cancionid pistaid musicaid faixaid branoid canzoneid трекid trekid utworid piosenkaid sarkiid "
        "parcaid kyokuid"
    ),
    "title": (
        "songtitle tracktitle recording tune titel liedtitel lied stuck songtitel musiktitel titre morceau chanson "
        "piste nomdumorceau titredumorceau titulo cancion pista nombredelacancion tema musica faixa nomedamusica "
        "nomedafaixa titolo brano canzone traccia название трек песня композиция названиетрека nazvanie trek pesnya "
        "tytul utwor piosenka nazwautworu sarki parca sarkiadi parcaadi baslik kyokumei kyoku taitoru"
    ),
    "artist": (
        "band singer musician composer creator channel channelname subtitles kunstler kuenstler interpret interpretin "
        "artiste interprete chanteur groupe nomdelartiste artista cantante cantor interpretante grupo banda "
        "nomedoartista artistaprincipale gruppo исполнитель артист певец группа ispolnitel artystka artysta wykonawca "
        "zespol sanatci sarkici grup yorumcu aatisuto atisuto kashu"
    ),
    "played_ratio": (
        "playedshare fractionplayed playedfraction percentlistened playedpercent percentcomplete completionrate "
        "anteil gehortanteil anteilgehort abspielanteil fraction part partecoutee proportion fraccion porcentaje "
        "proporcion fracao porcentagem proporcao frazione percentuale quota доля процент dolya udzial procent odsetek "
        "oran yuzde wariai saiseiritsu"
    ),
    "played": (
        "playduration playedtime timeplayedms timelistened playedfor heard heardms listenedms listenms listeningtime "
        "streamms gehort gehoert gehortms spielzeit gespielt abspieldauer hordauer horzeit tempsecoute tempsdecoute "
        "dureeecoute dureeecoutee dureedecoute ecoute tiempoescuchado tiempoescucha tiemporeproducido escuchado "
        "reproducido tempoouvido tempodeescuta ouvido reproduzido tempoascolto tempodiascolto ascoltato riprodotto "
        "прослушаносекунд времяпрослушивания vremyaproslushivaniya czasodtwarzania czassluchania dinlemesuresi "
        "calmasuresi dinlenen saiseijikan"
    ),
    "duration": (
        "songduration tracktime runtime totaltime lengthms lengthsec lengthseconds songlengthms totalms dauer lange "
        "laenge liedlange titellange spieldauer duree dureemorceau longueur dureetotale duracion duraciontotal "
        "duracao duracaototal durata durataprano lunghezza длительность продолжительность dlitelnost dlugosc "
        "czastrwania sure uzunluk sarkisuresi nagasa kyokunonagasa"
    ),
    "skipped": (
        "wasskipped skippedtrack isskip skippedflag ubersprungen uebersprungen saute passe zappe saltado saltada "
        "omitido pulado pulada pulou saltato saltata пропущено пропущен propushcheno pominiete pominieto pominiety "
        "atlandi atlanan gecildi sukippu"
    ),
    "session": (
        "sitzung sitzungid sitzungsid seance sesion sesionid sessao sessaoid sessione sessioneid сессия сеанс seans "
        "sesja sesjaid oturum oturumid sesshon"
    ),
}
# Letters that are not a letter with a mark.
_NO_ACCENT = str.maketrans({"ł": "l", "ı": "i", "ø": "o", "æ": "ae", "œ": "oe", "đ": "d"})
# A unit at the end of a name.
_UNIT = re.compile(
    r"(?<=\w)([\s_.(\[/]+(ms|millis|s|secs?|sek|seconds?|sekunden|us|min|utc|in)\b)+[)\].]*$", re.IGNORECASE
)


def plain(name: str) -> str:
    """A name in lower case without accents and punctuation, and without the type of RecBole (`user_id:token`)."""
    folded = unicodedata.normalize("NFKD", name.casefold().translate(_NO_ACCENT).partition(":")[0])
    return "".join(letter for letter in folded if letter.isalnum())


def spellings(name: str) -> set[str]:
    """A name as lists of names have it: whole, without a unit behind it, and what comes behind the last dot."""
    return {plain(text) for one in (name, name.rpartition(".")[2]) for text in (one, _UNIT.sub("", one))}


ROLES = tuple(field.name for field in fields(Columns))
"""What a column can be; the keys of `datamodule.columns`."""

ENDS = {*map(plain, _ENDS.split())}
"""Names of the end of a play."""

USUAL_NAMES = {role: _USUAL_NAMES.get(role, "").split() for role in ROLES}
"""Usual names of the columns of each role, as `plain` makes them; earlier ones come first."""

OTHER_NAMES = {role: list(map(plain, _OTHER_NAMES.get(role, "").split())) for role in ROLES}
"""Further names: English, German, French, Spanish, Portuguese, Italian, Russian, Polish, Turkish, Japanese."""
