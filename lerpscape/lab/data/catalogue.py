"""The official files of data sets: folder, checksums, download, and the counts and statistics of their content.

Checksums are those of the uncompressed bytes: a file and its gzipped copy share theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """One form of a data set on disk: a folder below the data folder, and its files with their checksums.

    `*.txt` stands for all text files, with one checksum over their names and contents in sorted order.
    """

    folder: str
    files: Mapping[str, str]


@dataclass(frozen=True)
class Download:
    """The URL of an official file and its checksum; archives are unpacked."""

    url: str
    checksum: str


@dataclass(frozen=True)
class Entry:
    """A data set with official files.

    `train` and `test` are the numbers of examples (tokens of text), `outputs` of classes (words in the vocabulary) and
    `per_class` of training examples of each class. `mean` and `std` are those of the training pixels in [0, 1] by
    channel, to four digits. `into` is the folder for downloads.
    """

    title: str
    layouts: tuple[Layout, ...]
    train: int
    test: int
    outputs: int
    per_class: tuple[int, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    downloads: tuple[Download, ...] = ()
    into: str = "."


TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
IDX_FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)
CIFAR10_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEXT_FILES = "*.txt"


def _idx(folder: str, *checksums: str) -> Layout:
    return Layout(folder, {name: f"sha256:{digest}" for name, digest in zip(IDX_FILES, checksums, strict=True)})


def _downloads(base: str, *checksums: str) -> tuple[Download, ...]:
    return tuple(Download(f"{base}{name}.gz", f"md5:{md5}") for name, md5 in zip(IDX_FILES, checksums, strict=True))


ENTRIES: dict[str, Entry] = {
    "mnist": Entry(
        "MNIST, handwritten digits, 28 × 28 (LeCun et al. 1998)",
        (
            _idx(
                "MNIST/raw",
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        ),
        train=60_000,
        test=10_000,
        outputs=10,
        per_class=(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
        mean=(0.1307,),
        std=(0.3081,),
        downloads=_downloads(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        into="MNIST/raw",
    ),
    "fashion_mnist": Entry(
        "Fashion-MNIST, articles of clothing, 28 × 28 (Xiao et al. 2017)",
        (
            _idx(
                "FashionMNIST/raw",
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
        ),
        train=60_000,
        test=10_000,
        outputs=10,
        per_class=(6000,) * 10,
        mean=(0.2860,),
        std=(0.3530,),
        downloads=_downloads(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        into="FashionMNIST/raw",
    ),
    "cifar10": Entry(
        "CIFAR-10, colour photographs, 32 × 32 (Krizhevsky 2009)",
        (
            Layout(
                "cifar-10-batches-py",
                {
                    "data_batch_1": "md5:c99cafc152244af753f735de768cd75f",
                    "data_batch_2": "md5:d4bba439e000b95fd0a9bffe97cbabec",
                    "data_batch_3": "md5:54ebc095f3ab1f0389bbae665268c751",
                    "data_batch_4": "md5:634d18415352ddfa80567beed471001a",
                    "data_batch_5": "md5:482c414d41f54cd18b22e5b47cb7c3cb",
                    "test_batch": "md5:40351d587109b95175f43aff81a1287e",
                },
            ),
            Layout(
                "cifar10-png",
                {
                    "data_batch_1.png": "sha256:9a148385817b16e1840832575ee46ccac2ced61a305f07d4804805773c64e9bc",
                    "data_batch_2.png": "sha256:47d610b8eb06af0c885fc499afc396d55f3a029b865725720a4f10474aac9d6f",
                    "data_batch_3.png": "sha256:ca5d6af61c1791820d0fa2b0a842a73ed48978b698d74c26531d2c80373d4c10",
                    "data_batch_4.png": "sha256:b9342d4f3cc3db72a731ca8ceb196a37d61480ea2da598ed0b32b74339bd04a5",
                    "data_batch_5.png": "sha256:183d6d9af763804a99e1a6d8af723b9cfe906a61276466041dea4511ce015144",
                    "test_batch.png": "sha256:ca44572a4066ea28c710ad4dc633d2ce24469a5e869ede5cc69495b0ef4c7d09",
                    "train_lables.json": "sha256:a3a0d804911c71de4b73015af980e237de5f82da7b1482a8efaf7adcc1722f45",
                    "test_lables.json": "sha256:a5df9ed6f395827dd69906fe5ac740be70395ca9d841974d4351818628b48bb6",
                },
            ),
        ),
        train=50_000,
        test=10_000,
        outputs=10,
        per_class=(5000,) * 10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        downloads=(
            Download("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "md5:c58f30108f718f92721af3b95e74349a"),
        ),
    ),
    "cifar100": Entry(
        "CIFAR-100, colour photographs, 32 × 32 (Krizhevsky 2009)",
        (
            Layout(
                "cifar-100-python",
                {"train": "md5:16019d7e3df5f24257cddd939b257f8d", "test": "md5:f0ef6b0ae62326f3e7ffdfab6717acfc"},
            ),
        ),
        train=50_000,
        test=10_000,
        outputs=100,
        per_class=(500,) * 100,
        downloads=(
            Download(
                "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "md5:eb9058c3a382ffc7106e4002c42a8d85"
            ),
        ),
    ),
    "sotu": Entry(
        "State of the Union addresses since 1790, one file each",
        (Layout("sotu", {TEXT_FILES: "sha256:7b55bbea31d3ae6995a919edf5b207b3736a3e3ce48838c3030922d4f8b9d2d8"}),),
        train=1_854_606,
        test=211_800,
        outputs=17_184,
    ),
    "wikitext2": Entry(
        "WikiText-2, articles of Wikipedia (Merity et al. 2016)",
        (
            Layout(
                "wikitext-2",
                {
                    "wiki.train.tokens": "sha1:863f29c46ef9d167fff4940ec821195882fe29d1",
                    "wiki.valid.tokens": "sha1:0418625c8b4da6e4b5c7a0b9e78d4ae8f7ee5422",
                    "wiki.test.tokens": "sha1:c7b8ce0aa086fb34dab808c5c49224211eb2b172",
                },
            ),
        ),
        train=2_088_628,
        test=245_569,
        outputs=33_278,
        downloads=(
            Download(
                "https://wikitext.smerity.com/wikitext-2-v1.zip",
                "sha256:92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c",
            ),
        ),
    ),
}
