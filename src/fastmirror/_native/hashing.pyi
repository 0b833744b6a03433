"""SHA-256 and SHA-512 in native code, fed from Python or from ingest threads."""

from typing import Self, final

from typing_extensions import Buffer

def implementations(algorithm: str) -> tuple[str, ...]:
    """Name what can compute ``algorithm`` on this machine, fastest first; the last one is always "portable".

    Raises     ValueError if the algorithm is not "sha256" or "sha512".
    """

@final
class Hasher:
    """A running SHA-2 digest over the bytes given so far.

    Invariants  One user at a time: while an ``ingest.Job`` feeds it, every method but ``algorithm`` and
                ``digest_size`` raises RuntimeError; the job gives it back before it says that it is done.
    Source      FIPS 180-4.
    """

    def __new__(cls, algorithm: str, implementation: str = "") -> Self:
        """Begin a digest of no bytes.

        ``implementation`` is one of :func:`implementations`, for tests and benches; by default the fastest.

        Raises     ValueError if the algorithm or implementation is not known here.
        """
    @property
    def algorithm(self) -> str:
        """ "sha256" or "sha512", as in an OCI digest."""
    @property
    def implementation(self) -> str:
        """The one in use: "sha-ni", "armv8", "bmi2" or "portable"."""
    @property
    def digest_size(self) -> int:
        """Bytes of a digest: 32 or 64."""
    @property
    def length(self) -> int:
        """Bytes hashed so far. Raises RuntimeError while a job uses the hasher."""
    def update(self, data: Buffer) -> None:
        """Append bytes from any contiguous buffer; pieces of 16 KiB and more are hashed without the GIL.

        Raises     RuntimeError while a job or another thread uses the hasher; BufferError if not contiguous.
        """
    def digest(self) -> bytes:
        """The digest of the bytes so far; more may follow. Raises RuntimeError while a job uses the hasher."""
    def hexdigest(self) -> str:
        """Like :meth:`digest`, in lower-case hex."""
    def copy(self) -> Hasher:
        """An independent hasher in the same state. Raises RuntimeError while a job uses this one."""
