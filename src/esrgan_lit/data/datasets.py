"""The data sets that ``esrgan-data fetch`` knows: where they are, how they are recognised, whose they are.

Every figure stands in a public source, named beside it; what no source gives is None and says so. "deepinv" is
github.com/deepinv/deepinv, "torchsr" the torchSR data sets on GitHub, "card" the data set's page on Hugging Face,
whose sizes have three digits.
"""

from dataclasses import dataclass
from typing import NamedTuple

from esrgan_lit.downloads import RemoteFile


@dataclass(frozen=True, kw_only=True)
class Archive(RemoteFile):
    """A ZIP or tar file of images.

    Attributes:
        inside: folder in the archive that holds the images; "" for all of it.
        source: where these facts were found.

    Its checksum may also be ``images-md5:…`` of what is in it: the MD5 of the images' hexadecimal MD5s, one after the
    other in the order of their names (deepinv's ``calculate_md5_for_folder``).
    """

    inside: str = ""
    source: str = ""
    copies: int = 2


class Dataset(NamedTuple):
    """A set of photographs.

    Attributes:
        name: what the user types.
        folder: where its images go, below the root; the paths that ``conf/data`` reads.
        images: how many there are.
        archives: files that hold it, tried in this order.
        page: where its authors offer it.
        licence: what its users may do.
        citation: the paper to cite.
    """

    name: str
    folder: str
    images: int
    archives: tuple[Archive, ...]
    page: str
    licence: str
    citation: str


def _hugging_face(name: str, file: str, size: int, checksum: str, source: str) -> Archive:
    """One of the archives of high-resolution test images that eugenesiow keeps on Hugging Face."""
    address = f"https://huggingface.co/datasets/eugenesiow/{name}/resolve/main/data/{file}.tar.gz"
    return Archive(address, size, checksum, inside=file, source=source)


# Sizes and SHA-256: tensorflow/datasets, datasets/div2k/checksums.tsv. Counts: deepinv. Licence: as loading scripts
# quote the authors' page.
_DIV2K_PAGE = "https://data.vision.ee.ethz.ch/cvl/DIV2K/"
_DIV2K_LICENCE = "academic research only; the images' copyright belongs to their owners"

_DIV2K_CITATION = (
    "Agustsson and Timofte, NTIRE 2017 Challenge on Single Image Super-Resolution: Dataset and Study, CVPRW 2017"
)

_ALL = (
    Dataset(
        name="DIV2K-train",
        folder="DIV2K/DIV2K_train_HR",
        images=800,
        archives=(
            Archive(
                "https://data.vision.ee.ethz.ch/cvl/DIV2K/DIV2K_train_HR.zip",
                inside="DIV2K_train_HR",
                size=3_530_603_713,
                checksum="sha256:9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
                source="tensorflow/datasets; folder: deepinv, div2k.py",
            ),
        ),
        page=_DIV2K_PAGE,
        licence=_DIV2K_LICENCE,
        citation=_DIV2K_CITATION,
    ),
    Dataset(
        name="DIV2K-valid",
        folder="DIV2K/DIV2K_valid_HR",
        images=100,
        archives=(
            Archive(
                "https://data.vision.ee.ethz.ch/cvl/DIV2K/DIV2K_valid_HR.zip",
                inside="DIV2K_valid_HR",
                size=448_993_893,
                checksum="sha256:20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc",
                source="tensorflow/datasets; folder: deepinv, div2k.py",
            ),
        ),
        page=_DIV2K_PAGE,
        licence=_DIV2K_LICENCE,
        citation=_DIV2K_CITATION,
    ),
    Dataset(
        name="Flickr2K",
        folder="Flickr2K/Flickr2K_HR",
        images=2650,  # deepinv, flickr2k.py
        archives=(
            Archive(
                "https://cv.snu.ac.kr/research/EDSR/Flickr2K.tar",
                inside="Flickr2K/Flickr2K_HR",
                size=None,  # not found; the low-resolution images in it are not unpacked
                checksum="md5:5d3f39443d5e9489bff8963f8f26cb03",
                source="the authors' file; MD5 and folder: torchsr, flickr2k.py",
            ),
            Archive(
                "https://huggingface.co/datasets/yangtao9009/Flickr2K/resolve/main/Flickr2K.zip",
                inside="Flickr2K",
                size=11_600_000_000,
                checksum=None,  # not found for this copy; its count of images is required instead
                source="a copy, high-resolution images only; address and folder: deepinv's documentation of Flickr2kHR",
            ),
        ),
        page="https://github.com/LimBee/NTIRE2017",
        licence="no licence found; photographs from Flickr, whose copyright belongs to their owners",
        citation="Lim et al., Enhanced Deep Residual Networks for Single Image Super-Resolution, CVPRW 2017",
    ),
    Dataset(
        name="OST",
        folder="OST",
        images=10_324,  # OutdoorSceneTrain: the README that comes with the data set
        archives=(
            Archive(
                "https://huggingface.co/datasets/yangtao9009/OSTv2/resolve/main/OSTv2.zip",
                inside="",  # its folders are not documented
                size=4_500_000_000,
                checksum="sha256:c196a78519368ec82a01a3b736f5dccd5a5493ee01a482cd677736ddf9010b4b",
                source="a copy (the authors offer Google Drive and Baidu only); size and SHA-256: its card",
            ),
        ),
        # OutdoorSceneTrain_v2 in github.com/xinntao/SFTGAN's Google Drive
        page="https://drive.google.com/drive/folders/1LIb631GU3bOyQVTeuALesD8_eoApNniB",
        licence="no licence found; images from search engines, whose copyright belongs to their owners",
        citation="Wang et al., Recovering Realistic Texture in Image Super-resolution by Deep Spatial Feature "
        "Transform, CVPR 2018",
    ),
    Dataset(
        name="Set5",
        folder="Set5/HR",
        images=5,
        archives=(
            _hugging_face(
                "Set5",
                "Set5_HR",
                852_000,
                "sha256:260fc447296333f6c2716bcd65513968c33b666f21a905537ee3330c51a1945b",
                "size and SHA-256: card; folder: deepinv, set5.py",
            ),
        ),
        page="http://people.rennes.inria.fr/Aline.Roumy/results/SR_BMVC12.html",
        licence="academic use, says its page on Hugging Face",
        citation="Bevilacqua et al., Low-Complexity Single-Image Super-Resolution Based on Nonnegative Neighbor "
        "Embedding, BMVC 2012",
    ),
    Dataset(
        name="Set14",
        folder="Set14/HR",
        images=14,
        archives=(
            _hugging_face(
                "Set14",
                "Set14_HR",
                4_980_000,
                "images-md5:3fce01c3dfe9760194e8a22f6bc032c5",
                "size: card; checksum and folder: deepinv, set14.py",
            ),
        ),
        page="https://sites.google.com/site/romanzeyde/research-interests",
        licence="no licence found; a benchmark used in research",
        citation="Zeyde, Elad and Protter, On Single Image Scale-Up Using Sparse-Representations, 2010",
    ),
    Dataset(
        name="BSD100",
        folder="BSD100/HR",
        images=100,
        archives=(
            Archive(
                "https://huggingface.co/datasets/eugenesiow/BSD100/resolve/main/data/BSD100_HR.tar.gz",
                inside="BSD100_HR",
                size=None,  # not found
                checksum="images-md5:2288d442262c1c26343fda3b36f05b03",
                source="checksum and folder: deepinv, bsd100.py",
            ),
        ),
        page="https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/bsds/",
        licence="non-commercial research and education, as others quote Berkeley's page",
        citation="Martin et al., A Database of Human Segmented Natural Images and its Application to Evaluating "
        "Segmentation Algorithms and Measuring Ecological Statistics, ICCV 2001",
    ),
    Dataset(
        name="Urban100",
        folder="Urban100/HR",
        images=100,
        archives=(
            _hugging_face(
                "Urban100",
                "Urban100_HR",
                135_000_000,
                "md5:65d9d84a34b72c6f7ca1e26a12df1e4c",
                "size: card; MD5: deepinv's examples; folder: deepinv, urban100.py",
            ),
        ),
        page="https://github.com/jbhuang0604/SelfExSR",
        licence="CC BY 4.0, says its page on Hugging Face",
        citation="Huang, Singh and Ahuja, Single Image Super-Resolution from Transformed Self-Exemplars, CVPR 2015",
    ),
    Dataset(
        name="PIRM-self-val",
        folder="PIRM/HR",
        # Images 1 to 100, as in the challenge's folder PIRM_Self-Val_set; the challenge's 101 to 200 are another set.
        images=100,
        archives=(
            _hugging_face(
                "PIRM",
                "PIRM_valid_HR",
                51_800_000,
                "images-md5:5aa08bad3de701064350ead668f98d43",
                "size: card; checksum, folder and image names: deepinv, pirm.py",
            ),
        ),
        page="https://github.com/roimehrez/PIRM2018",
        licence="CC BY-NC-SA 4.0, says its page on Hugging Face",
        citation="Blau et al., The 2018 PIRM Challenge on Perceptual Image Super-resolution, ECCVW 2018",
    ),
)


DATASETS = {dataset.name: dataset for dataset in _ALL}

GROUPS = {
    "DIV2K": ("DIV2K-train", "DIV2K-valid"),
    "df2k_ost": ("DIV2K-train", "Flickr2K", "OST", "Set5"),  # all that data=df2k_ost reads
    "benchmarks": ("Set5", "Set14", "BSD100", "Urban100", "PIRM-self-val"),
}
