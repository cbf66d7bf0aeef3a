"Reads settings.ini, the only place where version, requirements and names are written; holds none of its own."
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

ini = ConfigParser()
ini.read('settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
first, last = (tuple(map(int, cfg[o].split('.'))) for o in ('min_python', 'max_python'))
versions = [f'{first[0]}.{o}' for o in range(first[1], last[1] + 1)]

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'],
    author=cfg['author'], author_email=cfg['author_email'], url=cfg['git_url'], license='Apache-2.0',
    long_description=Path('README.md').read_text(encoding='utf-8') if Path('README.md').exists() else '',
    long_description_content_type='text/markdown',
    packages=[cfg['lib_path']], include_package_data=True, zip_safe=False,
    python_requires=f'>={cfg["min_python"]},<{last[0]}.{last[1] + 1}',
    install_requires=cfg['requirements'].split(),
    extras_require={extra: cfg[f'{extra}_requirements'].split() for extra in ('dev', 'cluster', 'pictures', 'perceiver', 'search', 'dicom')},
    entry_points={'console_scripts': cfg['console_scripts'].split()},
    classifiers=['Intended Audience :: Education', 'Intended Audience :: Science/Research',
        'Topic :: Scientific/Engineering :: Medical Science Apps.', *(f'Programming Language :: Python :: {o}' for o in versions)],
)
